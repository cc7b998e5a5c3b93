"""Knobs of runs that are compared: which differ, and their short names."""

from collections.abc import Iterable, Sequence

from seg import config as config_lib

SEED = "train.seed"
# What changes no number, or says where things are.
_FREE = (
    "track.",
    "mesh.",
    "data.dir",
    "data.cache_mib",
    "train.keep",
    "train.log_every",
    "train.checkpoint_every",
    "train.resume_changed",
)
# What a training measures on its images, and writes into its config.
_MEASURED = ("data.mean", "data.std", "data.diameter")


def labels(knobs: Iterable[str]) -> dict[str, str]:
    """Knobs to short names: the last part, where that tells them apart.

    "seed" is the training's, which may join the others later.
    """
    ends = {knob: knob.rpartition(".")[2] for knob in knobs}
    tails = [*(end for knob, end in ends.items() if knob != SEED), "seed"]
    return {
        knob: end if knob == SEED or tails.count(end) == 1 else knob
        for knob, end in ends.items()
    }


def differing(configs: Sequence[config_lib.Config]) -> list[str]:
    """All knobs that are not the same in all configs."""
    flat = [config_lib.to_flat(config) for config in configs]
    return [
        knob
        for knob, value in flat[0].items()
        if any(other[knob] != value for other in flat[1:])
    ]


def telling(knobs: Iterable[str], *, same_data: bool) -> list[str]:
    """Of knobs that differ those that may have made the difference.

    Runs on the same data may have found them in different places; those on
    different data have measured them.
    """
    dull = (*_FREE, *(("data.path",) if same_data else _MEASURED))
    return [knob for knob in knobs if not knob.startswith(dull)]
