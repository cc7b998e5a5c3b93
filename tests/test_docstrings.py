"""The examples in docstrings say what happens."""

import doctest
import importlib
import pathlib

import pytest

import seg

_ROOT = pathlib.Path(seg.__file__).parent
_WITH = [
    path
    for path in sorted(_ROOT.rglob("*.py"))
    if "\n    >>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("path", _WITH, ids=lambda path: path.stem)
def test_the_examples_hold(path):
    parts = path.relative_to(_ROOT.parent).with_suffix("").parts
    module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
    found = doctest.testmod(module)
    assert found.attempted and not found.failed


def test_the_way_in_has_an_example():
    assert _ROOT / "__init__.py" in _WITH
