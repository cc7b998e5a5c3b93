"""Every experiment is a short file that can run, and says how.

Its docstring holds the command; get_config() gives a Config that checks.
"""

import importlib.util
import pathlib
import re

import pytest

from seg import config

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "experiments"
FILES = sorted(FOLDER.glob("*.py"))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def experiment(request):
    """The experiment as a module."""
    spec = importlib.util.spec_from_file_location(
        request.param.stem, request.param
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_demo_is_there():
    assert FOLDER / "demo.py" in FILES


def test_its_config_checks_and_survives_json(experiment):
    built = experiment.get_config()
    assert isinstance(built, config.Config)
    assert config.check(built) == built
    assert config.from_json(config.to_json(built)) == built


def test_its_variants_check_too(experiment):
    makers = [
        made
        for name, made in vars(experiment).items()
        if callable(made) and not name.startswith("_")
    ]
    for make in makers:
        assert config.check(make()) == make()
    if hasattr(experiment, "as_published"):
        assert experiment.as_published() != experiment.get_config()
        assert ":as_published" in experiment.__doc__


def test_its_docstring_holds_a_command_that_exists(experiment):
    text = experiment.__doc__
    commands = re.findall(r"python -m launch\.(\w+)|bash launch/(\S+)", text)
    assert commands
    for module, script in commands:
        found = FOLDER.parent / "launch"
        named = (
            [script] if script else [f"{module}.py", f"{module}/__main__.py"]
        )
        assert any((found / name).is_file() for name in named)
    for named in re.findall(r"experiments/\w+\.py", text):
        assert (FOLDER.parent / named).is_file()


def test_its_docstring_tells_its_cost_and_what_it_reaches(experiment):
    if experiment.__name__ == "folders":
        pytest.skip("its images are the reader's")
    text = experiment.__doc__
    assert re.search(r"\b(min|minutes?|hours?)\b", text)
    assert re.search(r"\bCPU cores?\b", text)
    assert re.search(r"(?<!\w)\.\d{2,3}\b", text)  # a score


def test_it_is_short(experiment):
    path = pathlib.Path(experiment.__file__)
    code = path.read_text().replace(experiment.__doc__, "")
    assert len([line for line in code.splitlines() if line.strip()]) <= 30


# What the five systems did, as far as they say it: see the files' docstrings.
_PLAIN = {
    "optim.schedule": "constant", "optim.warmup_frac": 0.0,
    "optim.clip_norm": 0.0, "optim.weight_decay": 1e-4, "optim.ema": 0.0,
    "optim.swa": 0.0,
}  # fmt: skip
_THESIS = _PLAIN | {
    "model.n_classes": 4, "model.in_channels": 1, "data.tile": 512,
    "data.normalize": "range + columns", "loss.terms": "cross_entropy",
    "optim.name": "adam", "optim.learning_rate": 1e-3,
    "train.batch_size": 4, "train.epochs": 500, "train.patience": 15,
    "train.monitor": "val/loss", "augment.rotate": 0.7,
    "augment.rotate_degrees": 180.0, "augment.flip": 0.4,
    "augment.crop_pad": 0.2, "augment.fill": 160 / 255,
    "predict.tile": 512, "predict.overlap": 0.0, "predict.closing": 29,
    "predict.min_area": (5_000, 10_000, 10_000), "predict.margin": (0, 30, 50),
}  # fmt: skip
_SQUEEZED = _PLAIN | {
    "model.in_channels": 3, "data.split": "images", "data.resize": 128,
    "data.tile": 128, "predict.tile": 128, "predict.overlap": 0.0,
    "data.normalize": "range", "optim.name": "adam",
    "optim.learning_rate": 1e-3, "train.augment": False,
}  # fmt: skip
PUBLISHED = {
    "thesis_segnet": _THESIS | {"model.name": "segnet"},
    "thesis_xception": _THESIS | {"model.name": "xception_unet"},
    "nuclei_small_unet": _SQUEEZED | {
        "model.name": "unet_small", "loss.terms": "binary_cross_entropy",
        "train.batch_size": 10, "train.epochs": 25, "train.patience": 2,
        "data.val_frac": 0.1,
    },
    "tutorial_mobilenet": _SQUEEZED | {
        "model.name": "mobilenet_unet", "loss.terms": "cross_entropy",
        "train.batch_size": 16, "train.epochs": 100, "data.val_frac": 0.2,
    },
    "clustered_unet": _PLAIN | {
        "model.name": "unet", "model.in_channels": 1, "data.tile": 256,
        "data.split": "clusters", "data.val_frac": 0.1, "data.test_frac": 0.1,
        "data.spacing": "ceil", "data.normalize": "invert + range",
        "data.invert_above": 80.0, "loss.terms": "binary_cross_entropy",
        "optim.name": "adam", "optim.learning_rate": 1e-4,
        "train.batch_size": 20, "train.steps": 3500, "train.augment": False,
        "predict.tile": 256, "predict.spacing": "ceil",
        "predict.blend": "last", "predict.threshold": 0.5,
    },
    "microscale_lovasz": _PLAIN | {
        "model.name": "xception_unet", "model.n_classes": 3,
        "data.tile": 256, "data.split": "tiles", "data.gamma": 1.2,
        "data.normalize": "global + minmax + equalize + gamma",
        "synthetic.height": 480, "synthetic.width": 640,
        "augment.flip": 0.5, "augment.quarter_turns": True,
        "augment.rotate": 0.0, "augment.scale": 0.0, "augment.noise": 0.0,
        "loss.terms": "lovasz_softmax", "loss.classes": "present",
        "loss.per_image": False, "optim.name": "sgd",
        "optim.learning_rate": 1e-3, "optim.momentum": 0.9,
        "optim.nesterov": True, "optim.unit_gradients": True,
        "train.batch_size": 8, "train.epochs": 25,
        "train.monitor": "val/loss", "predict.tile": 256,
        "predict.overlap": 0.0,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_as_published_is_what_was_published(name):
    (path,) = (path for path in FILES if path.stem == name)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = config.to_flat(module.as_published())
    wanted = PUBLISHED[name]
    assert {knob: found[knob] for knob in wanted} == wanted


def test_nothing_published_is_left_out():
    named = {path.stem for path in FILES if "as_published" in path.read_text()}
    assert named == PUBLISHED.keys()
