"""The page of all knobs is what the config says."""

import pathlib

from seg import config
from seg.config import __main__ as reference

PAGE = pathlib.Path(reference.__file__).with_name("README.md")


def test_the_reference_is_up_to_date():
    made = reference.reference()
    assert made == PAGE.read_text(), (
        "python -m seg.config > seg/config/README.md"
    )
    for path, *_ in config.leaves():
        assert made.count(f"| `{path}` |") == 1
