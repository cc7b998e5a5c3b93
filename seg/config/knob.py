"""What a knob is: a field with a default, its help, what it may be.

Each field of a config is a `knob(default, help, allowed)`; the help names the
unit. The same text is the flag's help, so a fact about a knob stands there and
nowhere else.
"""

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that a knob may be."""

    text: str
    holds: Callable[[float], bool]


FRACTION = Range("lie in [0, 1]", lambda x: 0 <= x <= 1)
BELOW_ONE = Range("lie in [0, 1)", lambda x: 0 <= x < 1)
POSITIVE = Range("be positive", lambda x: x > 0)
NOT_NEGATIVE = Range("not be negative", lambda x: x >= 0)


def knob(
    default: Any, text: str, allowed: Range | tuple[Any, ...] | None = None
) -> Any:
    """A field with one line of help and the range, or choices, it allows."""
    return dataclasses.field(
        default=default, metadata={"help": text, "allowed": allowed}
    )
