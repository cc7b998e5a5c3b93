"""What is loaded when: seg starts fast, and runs where libraries are missing.

`import seg` loads nothing, a prediction loads neither TensorFlow nor MLflow,
and training loads on a node that has only AIR_GAP's libraries.
"""

import pathlib
import subprocess
import sys

import numpy as np
from flax import nnx
from PIL import Image

from seg import config, models
from seg.predict import bundle

SEG = pathlib.Path(__file__).resolve().parent.parent / "seg"
# PIL and tifffile come with skimage.
AIR_GAP = (
    "jax", "flax", "optax", "orbax", "numpy", "scipy", "skimage", "absl",
    "PIL", "tifffile",
)  # fmt: skip
# What such a node does without, by module or folder.
BEYOND = (
    "data/dataset",  # a TFDS builder
    "predict/graph",  # ONNX
    "serve",  # MLflow's model file
    "__main__.py",  # runs a command when imported
)
# Refuses what seg's own files import beyond AIR_GAP, not what libraries do.
GUARD = f"""
import importlib, sys
allowed = sys.stdlib_module_names | set({(*AIR_GAP, "seg")!r})
class Gap:
    def find_spec(self, name, path=None, target=None):
        caller = sys._getframe(1)
        while "importlib" in caller.f_code.co_filename:
            caller = caller.f_back
        by = caller.f_globals.get("__name__", "").split(".")[0]
        if by == "seg" and name.split(".")[0] not in allowed:
            raise ModuleNotFoundError("behind the air gap: " + name)
sys.meta_path.insert(0, Gap())
"""


def loaded_after(program: str) -> set[str]:
    """The modules that a fresh interpreter has loaded at the end."""
    program += "\nimport sys; print('loaded:', *sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return set(run.stdout.rpartition("loaded:")[2].split())


def test_import_seg_loads_nothing_else():
    heavy = {"jax", "numpy", "tensorflow", "mlflow", "matplotlib", "orbax"}
    loaded = loaded_after("import seg")
    assert not heavy & loaded
    assert {name for name in loaded if name.startswith("seg")} == {"seg"}


def test_mlflow_sends_no_telemetry():
    # MLflow is silent under pytest and CI anyway: hide those from it.
    loaded_after(
        "import os\n"
        "for name in [*os.environ]:\n"
        "    if name == 'CI' or name.startswith(('PYTEST', 'GITHUB')):\n"
        "        del os.environ[name]\n"
        "from seg.train.tracking import upload\n"
        "upload.library()\n"
        "from mlflow.telemetry import utils\n"
        "assert not utils._is_ci_env_or_testing()\n"
        "assert utils.is_telemetry_disabled()"
    )


def test_training_and_prediction_import_on_an_air_gapped_node():
    beyond = [SEG / name for name in BEYOND]
    modules = [
        ".".join(path.relative_to(SEG.parent).with_suffix("").parts)
        for path in sorted(SEG.rglob("*.py"))
        if not any(path.is_relative_to(folder) for folder in beyond)
    ]
    walled = {"tensorflow", "tensorflow_datasets", "mlflow", "matplotlib"}
    assert "seg.train.losses.__init__" in modules
    assert not walled & loaded_after(
        f"{GUARD}\nfor name in {modules!r}: importlib.import_module(name)"
    )


def test_seg_predict_loads_neither_tensorflow_nor_mlflow(tmp_path):
    small = config.replace(config.Config(), {"model.width": 4})
    network = models.build(small.model, nnx.Rngs(0))
    bundle.save(bundle.from_model(small, network), tmp_path / "model")
    grey = np.random.default_rng(0).integers(0, 255, (40, 50), np.uint8)
    Image.fromarray(grey).save(tmp_path / "cells.png")
    loaded = loaded_after(
        "import runpy, sys\n"
        "sys.argv = 'seg predict cells.png --model=model --out=out'.split()\n"
        "try: runpy.run_module('seg', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code"
    )
    assert (tmp_path / "out/cells_labels.tif").is_file()
    assert "jax" in loaded
    walled = {"tensorflow", "tensorflow_datasets", "mlflow", "matplotlib"}
    assert not (walled | {"orbax"}) & loaded
