"""The map of the package holds: floors, walls, names, and what loads when.

Imports are read with `ast`, those inside functions too, so a lazy import
breaks no rule unseen. ARCHITECTURE: an import goes down, or sideways within
its room, never up and never round; each heavy library has its wall.
"""

import ast
import pathlib
import subprocess
import sys
from collections.abc import Iterable

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SEG = ROOT / "seg"

FLOORS = {
    "seg.compiler": 1,
    "seg.config": 1,
    "seg.locks": 1,
    "seg.tiles": 1,
    "seg.normalize": 1,
    "seg.images": 1,
    "seg.data": 2,
    "seg.models": 2,
    "seg.predict": 3,
    "seg.evaluate": 4,
    "seg.serve": 4,
    "seg.train": 5,
    "seg.flags": 6,
    "seg.commands": 6,
    "seg.napari": 6,
    "seg.__main__": 6,
    "launch": 6,
}
# The rooms that may call seg.load, which stands outside the floors.
FRONT = ("seg.serve", "seg.commands", "seg.napari", "seg.__main__", "launch")
# What may be used -> the only rooms that may.
WALLS = {
    "tensorflow": ("seg.data.dataset", "seg.data.pipeline"),
    "tensorflow_datasets": ("seg.data.dataset", "seg.data.pipeline"),
    "mlflow": ("seg.train.tracking", "seg.serve.pyfunc"),
    "orbax": ("seg.train.checkpoint",),
    "absl.flags": ("seg.flags", "seg.commands", "launch"),
    "matplotlib": ("seg.evaluate.plots", "launch.bench.plot"),
    "napari": ("seg.napari",),
    "magicgui": ("seg.napari",),
    "jax.jit": ("seg.train.step", "seg.predict.engine", "seg.predict.export"),
    "flax.nnx.jit": (),
}
TOP_LEVEL = {
    ".ci",
    ".gitignore",
    ".pre-commit-config.yaml",
    ".ruff.toml",
    "LICENSE",
    "README.md",
    "experiments",
    "launch",
    "pyproject.toml",
    "seg",
    "setup.cfg",
    "tests",
}
SAYS_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc"}


def sources(*folders: str, root: pathlib.Path = ROOT) -> dict[str, ast.Module]:
    """The syntax tree of every module in these folders, by dotted name."""
    trees = {}
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            *package, stem = path.relative_to(root).with_suffix("").parts
            tree = ast.parse(path.read_text(), filename=str(path))
            _make_absolute(tree, package)
            is_package = stem == "__init__"
            trees[".".join(package + [stem] * (not is_package))] = tree
    return trees


def _make_absolute(tree: ast.Module, package: list[str]) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = package[: len(package) - node.level + 1]
            node.module = ".".join([*above, *filter(None, [node.module])])


def uses(tree: ast.Module) -> set[tuple[int, str]]:
    """(line, name) of every import, and of dotted names that start at one.

    `import jax as j` and, further down, `j.jit` give jax and jax.jit.
    """
    found, alias = set(), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                found.add((node.lineno, name.name))
                first = name.name.split(".")[0]
                alias[name.asname or first] = (
                    name.name if name.asname else first
                )
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                target = f"{node.module}.{name.name}"
                found.add((node.lineno, target))
                alias[name.asname or name.name] = target
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith("import_module")
            and isinstance(node.args[0], ast.Constant)
        ):
            found.add((node.lineno, node.args[0].value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            first, _, rest = ast.unparse(node).partition(".")
            if first in alias:
                found.add((node.lineno, f"{alias[first]}.{rest}"))
    return found


def within(name: str, rooms: Iterable[str]) -> str | None:
    """The room that a dotted name lies in."""
    for room in rooms:
        if name == room or name.startswith(room + "."):
            return room
    return None


def wrong_imports(trees: dict[str, ast.Module]) -> list[str]:
    """One line for each use that goes up a floor or crosses a wall."""
    return [
        f"{module}:{line} uses {target}: {reason}"
        for module, tree in trees.items()
        for line, target in sorted(uses(tree))
        for reason in (
            _through_wall(module, target),
            _off_floor(module, target),
        )
        if reason
    ]


def _through_wall(module: str, target: str) -> str:
    wall = within(target, WALLS)
    if within(module, ["experiments.notebooks"]):
        return ""
    if not wall or within(module, WALLS[wall]):
        return ""
    return f"{wall} is for {', '.join(WALLS[wall]) or 'nobody'}"


def _off_floor(module: str, target: str) -> str:
    top = target.split(".")[0]
    here, there = within(module, FLOORS), within(target, FLOORS)
    if within(module, ["experiments.notebooks"]):  # what users write
        return "" if top != "launch" else "notebooks are the package's users"
    if within(module, ["experiments"]):
        free = within(target, ["seg.config", "experiments"])
        if free or target == "seg" or top in sys.stdlib_module_names:
            return ""
        return "experiments import seg.config only"
    if top not in ("seg", "launch", "experiments"):
        return ""
    if top == "experiments":
        return "experiments are read as files, never imported"
    if module == "seg":  # stands outside; test_loading sees to its laziness
        return ""
    if here is None:
        return f"{module} has no floor in FLOORS"
    if there is None:
        free = within(module, FRONT) or target in ("seg", "seg.__version__")
        return "" if free else f"seg.load is for {', '.join(FRONT)}"
    if there == "launch" != here:
        return "the package works without the checkout's launch"
    if FLOORS[there] > FLOORS[here]:
        return f"up, from floor {FLOORS[here]} to floor {FLOORS[there]}"
    if FLOORS[there] == FLOORS[here] in (2, 4) and there != here:
        return f"sideways, from {here} to {there}"
    return ""


def rings(trees: dict[str, ast.Module]) -> list[str]:
    """Modules that import each other round, lazily or not."""
    edges = {
        module: {_module_of(target, trees) for _, target in uses(tree)}
        for module, tree in trees.items()
        if module != "seg"
    }
    done: set[str] = set()
    found = []

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append(" -> ".join([*path[path.index(module) :], module]))
        elif module not in done:
            for to in sorted(edges.get(module, set()) - {module, ""}):
                visit(to, [*path, module])
            done.add(module)

    for module in edges:
        visit(module, [])
    return found


def _module_of(target: str, trees: dict[str, ast.Module]) -> str:
    """The longest module that a dotted name starts with."""
    parts = target.split(".")
    for n in range(len(parts), 1, -1):
        if ".".join(parts[:n]) in trees:
            return ".".join(parts[:n])
    return ""


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    return sources("seg", "launch", "experiments")


def test_imports_go_down_and_walls_hold(trees):
    assert not wrong_imports(trees)


def test_no_imports_go_round(trees):
    assert not rings(trees)


@pytest.mark.parametrize(
    "path, text, reason",
    [
        ("seg/data/a.py", "from seg.predict import blobs", "up, from floor 2"),
        ("seg/data/a.py", "def f():\n  import seg.train.loop", "up, from"),
        ("seg/predict/a.py", "from ..train import losses", "up, from floor 3"),
        ("seg/images/__init__.py", "from ..data import split", "up, from"),
        ("seg/config/knobs.py", "from seg import flags", "up, from floor 1 to"),
        ("seg/models/a.py", "from seg.data import targets", "sideways"),
        ("seg/serve/a.py", "from seg.evaluate import report", "sideways"),
        ("seg/__main__.py", "from launch import train", "works without"),
        ("seg/train/a.py", "from launch import train", "works without"),
        ("launch/a.py", "from experiments import demo", "read as files"),
        ("seg/attic/a.py", "from seg import config", "no floor"),
        ("seg/data/a.py", "import seg\nseg.load('nuclei')", "seg.load is for"),
        ("seg/serve/a.py", "def f():\n  from napari import layers", "is for"),
        ("experiments/a.py", "from seg.models import unet", "config only"),
        ("experiments/a.py", "import numpy", "config only"),
        ("launch/a.py", "import tensorflow as tf", "is for seg.data.dataset"),
        ("seg/data/a.py", "def f():\n  import tensorflow_datasets", "is for"),
        ("seg/train/loop.py", "import mlflow.pyfunc", "mlflow is for"),
        ("seg/train/loop.py", "from orbax import checkpoint", "orbax is for"),
        ("seg/config/knobs.py", "from absl import flags", "absl.flags is for"),
        (
            "seg/config/knobs.py",
            "import absl\nabsl.flags.FLAGS",
            "absl.flags is for",
        ),
        ("seg/evaluate/report.py", "from matplotlib import pyplot", "is for"),
        ("seg/train/loop.py", "import jax\njax.jit(print)", "jax.jit is for"),
        ("seg/train/loop.py", "import jax as j\n@j.jit\ndef f(): 0", "is for"),
        ("seg/train/loop.py", "from jax import jit", "jax.jit is for"),
        ("seg/train/step.py", "from flax import nnx\nnnx.jit", "for nobody"),
        ("seg/train/loop.py", "import_module('mlflow')", "mlflow is for"),
    ],
)
def test_a_wrong_import_is_caught(tmp_path, path, text, reason):
    wrong = wrong_imports(_written(tmp_path, path, text))
    assert wrong
    assert all(reason in line for line in wrong)


@pytest.mark.parametrize(
    "path, text",
    [
        ("seg/images/a.py", "from seg import config"),
        ("seg/data/a.py", "from . import split\nfrom seg.images import read"),
        ("seg/train/a.py", "from seg.evaluate import report"),
        ("seg/train/checkpoint/a.py", "import orbax.checkpoint as ocp"),
        ("seg/train/step.py", "import jax\nf = jax.jit(print)"),
        ("seg/serve/a.py", "import seg\nseg.__version__"),
        ("seg/commands/a.py", "import seg\nseg.load('nuclei')"),
        ("seg/__init__.py", "def f():\n  from seg.train import tracking"),
        ("launch/a.py", "from absl import flags\nfrom seg.train import run"),
        ("experiments/a.py", "import dataclasses\nfrom seg import config"),
        ("experiments/a.py", "from experiments import demo"),
    ],
)
def test_a_right_import_is_let_through(tmp_path, path, text):
    assert not wrong_imports(_written(tmp_path, path, text))


def test_a_ring_is_caught(tmp_path):
    _written(tmp_path, "seg/data/a.py", "from seg.data import b")
    trees = _written(tmp_path, "seg/data/b.py", "def f():\n  import seg.data.a")
    assert rings(trees) == ["seg.data.a -> seg.data.b -> seg.data.a"]


def _written(root: pathlib.Path, path: str, text: str) -> dict[str, ast.Module]:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)
    return sources(path.split("/")[0], root=root)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_the_top_level_is_as_planned():
    run = subprocess.run(
        ["git", "ls-files"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert {line.split("/")[0] for line in run.stdout.splitlines()} <= TOP_LEVEL


def test_every_name_says_something():
    folders = [
        ROOT / name for name in ("seg", "launch", "experiments", "tests")
    ]
    assert not [
        path
        for folder in folders
        for path in folder.rglob("*.py")
        if SAYS_NOTHING & {path.stem, path.parent.name}
    ]
