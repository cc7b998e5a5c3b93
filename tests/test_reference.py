"""The pages of knobs and of commands are what config and --help say."""

import pathlib

from seg import config
from seg.__main__ import COMMANDS
from seg.commands import __main__ as commands
from seg.config import __main__ as reference

PAGE = pathlib.Path(reference.__file__).with_name("README.md")


def test_the_reference_is_up_to_date():
    made = reference.reference()
    assert made == PAGE.read_text(), (
        "python -m seg.config > seg/config/README.md"
    )
    for path, *_ in config.leaves():
        assert made.count(f"| `{path}` |") == 1


def test_the_page_of_commands_is_up_to_date():
    made = commands.reference()
    page = pathlib.Path(commands.__file__).with_name("README.md")
    assert made == page.read_text(), (
        "python -m seg.commands > seg/commands/README.md"
    )
    for name in COMMANDS:
        assert made.count(f"\n## seg {name}\n") == 1
