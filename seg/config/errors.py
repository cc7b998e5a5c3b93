"""What goes wrong by the user's doing, and names that are misspelled."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """What a user can mend. The message is one line: what, where, remedy.

    Every command prints it without a traceback and exits with status 2.
    """


class ConfigError(UserError):
    """A configuration that cannot run."""


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The known names that a misspelled one may stand for, best first.

    A bare last part stands for every path that ends in it.
    """
    known = sorted(known)
    ends = [path for path in known if path.rpartition(".")[2] == name]
    if ends:
        return ends[:3]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    match = difflib.SequenceMatcher(b=name)

    def likeness(candidate: str) -> float:
        match.set_seq1(candidate)
        return match.ratio()

    return [n for n in near if likeness(n) > likeness(near[0]) - 0.1]


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The message for a misspelled name, with the nearest right ones."""
    near = nearest(name, known)
    tail = (
        f"did you mean {' or '.join(near)}?"
        if near
        else (f"known: {', '.join(sorted(known))}")
    )
    return f"unknown {what} {name!r}; {tail}"
