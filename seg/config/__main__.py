"""Prints the page of all knobs.

python -m seg.config > seg/config/README.md
"""

import dataclasses
import types
import typing
from typing import Any

from seg import config
from seg.config import flat, knob

_HEAD = """\
# Knobs

Every knob is a field of `seg.config.Config`, and a flag of
`python -m launch.train` and its like by the same path: `--model.width=64`,
`--notrain.augment`, `--predict.min_area=30,50`. `seg predict` and `seg train`
take those that they use. What stands later wins: the default, the experiment
file, `--flagfile=FILE`, the command line. A knob of a network that is unset is
as the network's source has it.

This page is made by `python -m seg.config > seg/config/README.md`.
"""


def reference() -> str:
    """The page, in Markdown."""
    parts: dict[str, list[str]] = {}
    for path, value, field in flat.fields(config.Config()):
        part, _, _ = path.rpartition(".")
        cells = (f"`{path}`", f"`{_shown(value)}`", _about(field))
        parts.setdefault(part, []).append(f"| {' | '.join(cells)} |")
    lines = [_HEAD]
    for part, rows in parts.items():
        kind = next(
            (f.type for f in dataclasses.fields(config.Config)
             if f.name == part), config.Config,
        )  # fmt: skip
        title = f"{part}: {_first(kind)}" if part else "The rest"
        lines += [f"## {title}\n", "| knob | default | what |", "|---|---|---|"]
        lines += [*rows, ""]
    return "\n".join(lines).rstrip() + "\n"


def _first(kind: Any) -> str:
    text = (kind.__doc__ or "").strip().splitlines()[0].rstrip(".")
    return text[:1].lower() + text[1:]


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "empty"
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) or "empty"


def _about(field: dataclasses.Field) -> str:
    text = field.metadata["help"].replace("|", "\\|")
    kind, allowed = field.type, field.metadata["allowed"]
    names = _kind(kind)
    if isinstance(allowed, tuple):
        told = ", ".join(_shown(one) for one in allowed)
        names = f"one of {told}"
    elif isinstance(allowed, knob.Range):
        names += f", must {allowed.text}"
    return f"{text} *({names})*"


def _kind(kind: Any) -> str:
    if isinstance(kind, types.UnionType):
        return " or ".join(map(_kind, typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        return f"{_kind(typing.get_args(kind)[0])}, ..."
    return {type(None): "unset"}.get(kind, getattr(kind, "__name__", str(kind)))


if __name__ == "__main__":
    print(reference(), end="")
