"""The steps of `data.normalize`: each maps pixels, and what is known of them.

A step takes what is known of the image so far and gives a map of intensities.
The statistics go through the same map as the pixels, so that a later step sees
those of the image that it gets, without looking at one (`known`). Only
`columns` looks at the tile itself.

    percentile  the 1st and 99.8th percentile to 0 and 1 (StarDist, CSBDeep)
    standard    mean 0, deviation 1
    minmax      the extremes of the image to 0 and 1
    range       the range of the dtype to 0 and 1
    global      mean 0, deviation 1 over the training images (`training`)
    invert      images that are bright as stored are turned over
                (experiments/clustered_unet.py)
    equalize    the share of the pixels up to a value, 0 at the minimum
    gamma       x ** (1 / gamma), x cut to [0, 1]
    columns     each column of the tile over its L2 norm, as Keras' normalize
                (experiments/thesis_segnet.py); in training after augmentation
    none        nothing; float32

`equalize` is the line through 63 knots and the extremes: it meets the true
distribution there and is at most 1/64 off between them.
"""

import dataclasses
from typing import Any

import numpy as np

from seg import config as config_lib
from seg.config import scaling as names
from seg.normalize import known as known_lib
from seg.normalize.measuring import N_PARTS


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Which steps, and their numbers: what `config.Data` says of them."""

    steps: tuple[str, ...]
    gamma: float
    invert_above: float  # of 255
    mean: tuple[float, ...]  # by channel
    std: tuple[float, ...]
    tile: int = 0  # side of a training tile, px, where columns asks for it

    @property
    def by_image(self) -> "Scaling":
        """Without `columns`, which looks at the tile."""
        steps = tuple(name for name in self.steps if name != "columns")
        return dataclasses.replace(self, steps=steps)


def scaling(data: config_lib.Data | str) -> Scaling:
    """The scaling of a config; a string is that of its steps by default.

    Raises ConfigError where `config.check` would.
    """
    if isinstance(data, str):
        data = config_lib.Data(normalize=data)
    steps = names.steps(data.normalize)
    tile = data.tile if "columns" in steps else 0
    numbers = data.gamma, data.invert_above, data.mean, data.std
    return Scaling(steps, *numbers, tile)


def apply(image: Any, stats: Any, how: Scaling | str) -> Any:
    """Scales an image by statistics.

    Parameters
    ----------
    image : [..., H, W, C], any dtype, NumPy or JAX.
    stats : [..., C, len(COLUMNS)] from `measure`, same leading axes.
    how : of `scaling`.

    Returns
    -------
    float32 of the image's shape. A constant image becomes 0, never NaN, where
    a step depends on its contrast.

    Raises
    ------
    ConfigError
        where an older version's statistics lack what a step needs, or the
        training's mean is not known.
    """
    how = scaling(how) if isinstance(how, str) else how
    image = image.astype(np.float32)
    known = known_lib.Known(stats)
    for name in how.by_image.steps:
        change = _STEPS[name](known, how)
        image = change.of(image, known_lib.by_pixel)
        known = known_lib.After(known, change)
    return by_tile(image, how)


def by_tile(image: Any, how: Scaling) -> Any:
    """`columns` of float32 [..., H, W, C], where it is one of the steps.

    Columns are scaled as if they went on to the height of a training tile, so
    that windows of every height look as what was learned from.
    """
    if "columns" not in how.steps:
        return image
    power = (image * image).mean(-3)[..., None, :, :]
    norm = (how.tile * power) ** 0.5
    return image * (1 / (norm + (norm <= 0)))


def before(stats: Any, how: Scaling, step: str) -> known_lib.Known:
    """What is known of an image when the first such step sees it."""
    known = known_lib.Known(stats)
    for name in how.steps[: how.steps.index(step)]:
        known = known_lib.After(known, _STEPS[name](known, how))
    return known


def _none(known: known_lib.Known, how: Scaling) -> known_lib.Change:
    return known_lib.Change(lambda x, place: x, 1.0)


def _between(low: Any, span: Any) -> known_lib.Change:
    """low -> 0, low + span -> 1; where there is no span, all becomes 0."""
    factor = 1.0 / (span + (span <= 0))
    return known_lib.Change(
        lambda x, place: (x - place(low)) * place(factor), factor
    )


def _contrast(known: known_lib.Known, low: Any, span: Any) -> known_lib.Change:
    # Few bright specks on black: both percentiles are black, so the brightest
    # pixel stands for the upper one. A flat image has no span; what is left of
    # it after the offset is 0.
    return _between(low, span + (span <= 0) * (known["max"] - low))


def _standard(known: known_lib.Known, how: Scaling) -> known_lib.Change:
    return _contrast(known, known.mean, known.std)


def _percentile(known: known_lib.Known, how: Scaling) -> known_lib.Change:
    return _contrast(known, known["p1"], known["p99_8"] - known["p1"])


def _minmax(known: known_lib.Known, how: Scaling) -> known_lib.Change:
    return _contrast(known, known["min"], known["max"] - known["min"])


def _range(known: known_lib.Known, how: Scaling) -> known_lib.Change:
    return _contrast(known, known["zero"], known["limit"] - known["zero"])


def _global(known: known_lib.Known, how: Scaling) -> known_lib.Change:
    if not how.mean:
        raise config_lib.ConfigError(
            "data.normalize has global, and data.mean is not known before the "
            "training; give data.mean and data.std"
        )
    return _between(np.float32(how.mean), np.float32(how.std))


def _invert(known: known_lib.Known, how: Scaling) -> known_lib.Change:
    """limit - x, or high - x after another step, if the image is bright."""
    stored = known.shares
    share = known_lib.column(stored, "mean") / known_lib.column(stored, "limit")
    share = share.sum(-1)[..., None] / share.shape[-1]  # of all channels
    bright = (share > how.invert_above / 255) * np.float32(1)
    raw = type(known) is known_lib.Known
    high = known["limit" if raw else "max"] * bright
    sign = 1 - 2 * bright
    return known_lib.Change(
        lambda x, place: place(high) + x * place(sign), sign, bright
    )


def _equalize(known: known_lib.Known, how: Scaling) -> known_lib.Change:
    """A sum of ramps, one from each knot to the next.

    Ramps stand on their upper end: a value that many pixels have is passed
    where it is reached. Those at the minimum rise nowhere.
    """
    knots = known.knots()
    low, high = knots[..., :-1], knots[..., 1:]
    width = high - low
    # a hair too steep, so that each ramp is 0 at its lower end, not nearly
    steep = 1.000001 / (width + (width <= 0) * (1e-6 * abs(high) + 1e-30))
    live = (high > knots[..., :1]) * np.float32(1)
    total = live.sum(-1)[..., None]
    weight = live / (total + (total <= 0))

    def of(x: Any, place: known_lib.Place) -> Any:
        found = 0.0
        for k in range(N_PARTS):
            end, slope = place(high[..., k]), place(steep[..., k])
            short = ((end - x) * slope).clip(0, 1)
            found = found + (1 - short) * place(weight[..., k])
        return found

    return known_lib.Change(of)


def _gamma(known: known_lib.Known, how: Scaling) -> known_lib.Change:
    power = np.float32(1 / how.gamma)
    return known_lib.Change(lambda x, place: x.clip(0, 1) ** power)


_STEPS = {
    "percentile": _percentile, "standard": _standard, "minmax": _minmax,
    "range": _range, "global": _global, "invert": _invert,
    "equalize": _equalize, "gamma": _gamma, "none": _none,
}  # fmt: skip
