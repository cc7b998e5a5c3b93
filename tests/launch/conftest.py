"""A tiny experiment, prepared once, and commands in this process."""

import importlib
import logging
import os
import subprocess
import sys

import pytest
from absl import flags as absl_flags

from seg import flags

EXPERIMENT = """
from seg import config

def get_config():
    return config.replace(config.Config(), {
        "model.width": 2, "model.depth": 1, "model.norm": "batch",
        "model.dropout": 0.1,
        "data.tile": 32, "data.gap": 1, "data.object_rich": 0.5,
        "synthetic.n_train": 4, "synthetic.n_val": 2, "synthetic.n_test": 2,
        "synthetic.height": 48, "synthetic.width": 48,
        "synthetic.diameter": 12, "synthetic.n_objects": 4,
        "optim.ema": 0.5, "optim.learning_rate": 0.01,
        "train.batch_size": 4, "train.epochs": 3, "train.log_every": 1,
        "train.checkpoint_every": 3, "train.augment": False,
        "predict.tile": 32, "predict.min_area": (3,),
    })
"""
N_STEPS = 12


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A folder with tiny.py, its records in data/, and all in tiles.npz."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "tiny.py").write_text(EXPERIMENT)
    arguments = ("--pack=tiles.npz", "--pack_splits=train,val,test")
    command = (sys.executable, "-m", "launch.prepare", "--experiment=tiny.py")
    done = subprocess.run(
        [*command, *arguments], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def launch(capsys, monkeypatch):
    """launch(module, *arguments) -> (exit status, stdout, stderr)."""
    before = set(absl_flags.FLAGS)
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    root, own = logging.getLogger(), logging.getLogger("seg")
    logs = list(root.handlers), root.level, own.level

    def call(name, *arguments):
        module = importlib.import_module(f"launch.{name}")
        try:
            module.define()
            with pytest.raises(SystemExit) as caught:
                flags.run(module.main, [name, *map(str, arguments)])
        finally:
            for flag in set(absl_flags.FLAGS) - before:
                delattr(absl_flags.FLAGS, flag)
            root.handlers[:] = logs[0]
            root.setLevel(logs[1])
            own.setLevel(logs[2])
        return (caught.value.code, *capsys.readouterr())

    return call
