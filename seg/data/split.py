"""Which images train, which validate, which test: seeded, by group.

A group (images of one source) is never separated. The part of a group's name
before its last "/" is its stratum, unless strata are given (see `clusters`);
every stratum is spread over the splits in the same shares, as far as whole
groups allow.
"""

import collections
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from seg import config

SPLITS = ("train", "val", "test")
# kinds of data.split that drop what is published
ANEW = ("group", "clusters", "images")
_LEAKS = "its scores leak, and are for comparison only; use data.split=group"
LEAKS = {  # what to say of the kinds that are no honest ones
    "images": "data.split=images validates on parts of fields that are "
    f"trained on, where images are parts: {_LEAKS}",
    "tiles": "data.split=tiles validates on tiles of images that are trained "
    f"on: {_LEAKS}",
}


class Member(Protocol):
    """What is split; `layouts.Sample` is one."""

    id: str
    group: str
    split: str


def assign(
    samples: Sequence[Member],
    val_frac: float,
    test_frac: float,
    seed: int,
    *,
    strata: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The split of each id.

    strata: of each group, in place of those that its name says.

    Samples that have a split already keep it. If some have, and none
    validates, the groups for the validation are taken from those that train;
    the test is then as published.

    Raises UserError where there are fewer groups than splits to fill.
    """
    fixed = {sample.id: sample.split for sample in samples if sample.split}
    published = set(fixed.values())
    if not published or published == {"train"}:
        shares = {"val": val_frac, "test": test_frac}
        return _spread(samples, shares, seed, strata)
    if "val" in published:
        return {s.id: s.split or "train" for s in samples}
    pool = [s for s in samples if s.split in ("", "train")]
    share = val_frac * len(samples) / max(len(pool), 1)
    return fixed | _spread(pool, {"val": min(share, 0.5)}, seed, strata)


def _spread(
    samples: Sequence[Member],
    shares: Mapping[str, float],
    seed: int,
    strata: Mapping[str, str] | None,
) -> dict[str, str]:
    """Goes through the groups, stratum by stratum; each group goes where most
    images are missing so far."""
    shares = {name: share for name, share in shares.items() if share > 0}
    shares = {"train": 1 - sum(shares.values())} | shares
    sizes = collections.Counter(sample.group for sample in samples)
    if len(sizes) < len(shares):
        raise config.UserError(
            f"{len(sizes)} groups of images cannot fill {len(shares)} splits "
            f"({', '.join(shares)}); add images, or set data.val_frac or "
            "data.test_frac to 0"
        )
    counts = dict.fromkeys(shares, 0)
    chosen: dict[str, str] = {}
    if strata is None:
        strata = {group: group.rpartition("/")[0] for group in sizes}
    for group in _order(strata, seed):
        total = sum(counts.values()) + sizes[group]
        name = max(shares, key=lambda k: shares[k] * total - counts[k])
        chosen[group] = name
        counts[name] += sizes[group]
    _fill(chosen, counts, sizes)
    return {sample.id: chosen[sample.group] for sample in samples}


def _order(strata: Mapping[str, str], seed: int) -> list[str]:
    """The groups, shuffled inside of their strata; the strata shuffled."""
    members = collections.defaultdict(list)
    for group in sorted(strata):
        members[strata[group]].append(group)
    rng = np.random.default_rng(seed)
    blocks = [rng.permutation(members[k]).tolist() for k in sorted(members)]
    return [group for i in rng.permutation(len(blocks)) for group in blocks[i]]


def _fill(
    chosen: dict[str, str], counts: dict[str, int], sizes: Mapping[str, int]
) -> None:
    """Gives every empty split the smallest group of the fullest."""
    for name in counts:
        if counts[name]:
            continue
        rich = max(
            counts, key=lambda k: sum(split == k for split in chosen.values())
        )
        group = min(
            (g for g, split in chosen.items() if split == rich),
            key=lambda g: (sizes[g], g),
        )
        chosen[group] = name
        counts[rich] -= sizes[group]
        counts[name] += sizes[group]


def fold(
    samples: Sequence[Member],
    assigned: Mapping[str, str],
    n_folds: int,
    which: int,
    seed: int,
    *,
    strata: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The splits `assigned`, with one of n folds of the rest as validation.

    What tests stays so. Every group of the others is in one fold, and each
    stratum spread over them; the folds are the same whichever validates.

    Raises UserError where there are fewer groups than folds.
    """
    pool = [sample for sample in samples if assigned[sample.id] != "test"]
    sizes = collections.Counter(sample.group for sample in pool)
    if len(sizes) < n_folds:
        raise config.UserError(
            f"{len(sizes)} groups of images cannot fill data.folds={n_folds}; "
            "add images, or take fewer folds"
        )
    if strata is None:
        strata = {group: group.rpartition("/")[0] for group in sizes}
    counts = [0] * n_folds
    chosen = {}
    for group in _order({group: strata[group] for group in sizes}, seed):
        chosen[group] = counts.index(min(counts))
        counts[chosen[group]] += sizes[group]
    inside = {
        sample.id: "val" if chosen[sample.group] == which else "train"
        for sample in pool
    }
    return {**assigned, **inside}


def check_leaks(samples: Iterable[Member], splits: Mapping[str, str]) -> None:
    """Raises UserError where an id occurs twice, or a group is separated."""
    seen: set[str] = set()
    of_group: dict[str, tuple[str, str]] = {}
    for sample in samples:
        if sample.id in seen:
            raise config.UserError(
                f"two images have the id {sample.id}; rename one of them"
            )
        seen.add(sample.id)
        name = splits[sample.id]
        other, first = of_group.setdefault(sample.group, (name, sample.id))
        if other != name:
            raise config.UserError(
                f"{first} in {other} and {sample.id} in {name} belong together "
                f"(group {sample.group}); move them into one split, or set "
                "data.split=group"
            )


def stardist_split(names: Iterable[str]) -> dict[str, str]:
    """train or val for each of StarDist's 447 training names.

    As StarDist's notebook: the sorted names in the order of
    `RandomState(42).permutation`, the last 15 % (67) validate.
    """
    names = sorted(names)
    order = np.random.RandomState(42).permutation(len(names))
    n_val = max(1, round(0.15 * len(names)))
    validate = set(order[len(names) - n_val :].tolist())
    return {
        name: "val" if i in validate else "train"
        for i, name in enumerate(names)
    }


def excluded(path: str) -> list[str]:
    """The ids that data.exclude lists, sorted; none for an empty path.

    Raises UserError for a file that cannot be read.
    """
    if not path:
        return []
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise config.UserError(
            f"data.exclude={path}: cannot be read ({error}); give a text file "
            "with an id a line"
        ) from error
    return sorted(filter(None, map(str.strip, text.splitlines())))
