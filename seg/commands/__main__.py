"""Prints the page of all commands: what --help says, knobs left out.

python -m seg.commands > seg/commands/README.md
"""

import re
import subprocess
import sys

from seg.__main__ import COMMANDS

_HEAD = """\
# Commands

```
{about}
```

Beside its own flags a command takes knobs, `--PART.NAME=VALUE`; [the page of
knobs](../config/README.md) explains them, and `seg COMMAND --help` lists those
that it takes.

This page is made by `python -m seg.commands > seg/commands/README.md`.
"""


def reference() -> str:
    """The page, in Markdown."""
    sections = [_HEAD.format(about=_help())]
    for name in COMMANDS:
        own, last, knobs = _help(name).partition("those beside it win")
        lines = [f"## seg {name}", "", f"```\n{own}{last}\n```", ""]
        if parts := sorted(set(re.findall(r"^  --(\w+)\.", knobs, re.M))):
            lines.append(f"Knobs of {', '.join(f'`{p}`' for p in parts)}.\n")
        sections.append("\n".join(lines))
    return "\n".join(sections).rstrip() + "\n"


def _help(*command: str) -> str:
    """What a command says of itself; each in a process of its own, as absl
    knows a flag once only.
    """
    line = [sys.executable, "-m", "seg", *command, "--help"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    print(reference(), end="")
