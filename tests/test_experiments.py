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


def test_it_is_short(experiment):
    path = pathlib.Path(experiment.__file__)
    code = path.read_text().replace(experiment.__doc__, "")
    assert len(code.splitlines()) <= 40
