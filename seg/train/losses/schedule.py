"""What `Loss.terms` says: weighted sums of terms, one after the other.

    'cross_entropy, from 0.4: cross_entropy + 0.5*lovasz_softmax'

has two phases; the second begins when 0.4 of all steps are done.
"""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

from seg import config


class Phase(NamedTuple):
    """A stretch of the training, and the terms that it minimises."""

    start: float
    """The share of all steps that is done when it begins; the first's is 0."""
    terms: list[tuple[float, str]]
    """(factor, name) of each."""


def parse(terms: str, known: Iterable[str]) -> list[Phase]:
    """'dice, from .5: dice + 2*focal' -> [(0, [(1, 'dice')]), (.5, [...])].

    Raises ConfigError for a name that is not known, a factor that is not a
    positive number, or a fraction that does not lie between that of the phase
    before and 1.
    """
    first, *later = terms.split(",")
    if re.match(r"\s*from\b", first):
        raise config.ConfigError(
            f"loss.terms={terms!r}: the first phase begins with the training; "
            "write its sum alone, as cross_entropy, from 0.4: dice"
        )
    phases = [Phase(0.0, _sum(first, terms, known))]
    for text in later:
        start, colon, rest = text.partition(":")
        word, _, fraction = start.strip().partition(" ")
        if word != "from" or not colon:
            raise config.ConfigError(
                f"loss.terms={terms!r}: {text.strip()!r} does not say when it "
                "begins; write a later phase as from 0.4: dice"
            )
        start = _number(fraction)
        if not phases[-1].start < start < 1:
            raise config.ConfigError(
                f"loss.terms={terms!r}: from {fraction.strip()!r}; give a "
                "share of all steps between "
                f"{phases[-1].start:g} and 1, those of later phases larger"
            )
        phases.append(Phase(start, _sum(rest, terms, known)))
    return phases


def _sum(text: str, terms: str, known) -> list[tuple[float, str]]:
    found = []
    # a plus in 1e+2 is no sum
    for term in re.split(r"(?<![0-9.][eE])\+", text):
        factor, star, name = term.rpartition("*")
        name = name.strip()
        if name not in known:
            raise config.ConfigError(
                f"loss.terms={terms!r}: " + config.unknown("term", name, known)
            )
        value = _number(factor) if star else 1.0
        if not 0 < value < math.inf:
            raise config.ConfigError(
                f"loss.terms={terms!r}: {factor.strip()!r} is not a positive "
                "number; write a term as 0.5*dice"
            )
        found.append((value, name))
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
