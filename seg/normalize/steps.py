"""The steps of `data.normalize`: each maps pixels, and what is known of them.

A step takes what is known of the image so far and gives a map of intensities.
The statistics go through the same map as the pixels, so that a later step sees
those of the image that it gets, without looking at one: order statistics
exactly, mean and deviation exactly after an affine map and from the knots of
the distribution, to some 3 % of the deviation, after another. Only `columns`
looks at the tile itself.

    percentile  the 1st and 99.8th percentile to 0 and 1 (StarDist, CSBDeep)
    standard    mean 0, deviation 1
    minmax      the extremes of the image to 0 and 1
    range       the range of the dtype to 0 and 1
    global      mean 0, deviation 1 over the training images (`training`)
    invert      images that are bright as stored are turned over (source 003)
    equalize    the share of the pixels up to a value, 0 at the minimum
    gamma       x ** (1 / gamma), x cut to [0, 1]
    columns     each column of the tile over its L2 norm (source 000)
    none        nothing; float32

`equalize` is the line through 63 knots and the extremes: it meets the true
distribution there and is at most 1/64 off between them.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from seg import config as config_lib
from seg.config import scaling as names
from seg.normalize.measuring import COLUMNS, N_PARTS

Place = Callable[[Any], Any]  # lays numbers [..., C] beside an array
_PLACE = {name: i for i, name in enumerate(COLUMNS)}
_MIRROR = {"min": "max", "p1": "p99", "p99_8": "p0_2", "limit": "zero",
           "mean": "mean"}  # fmt: skip
_MIRROR |= {f"up_{k}": f"down_{k}" for k in range(1, N_PARTS)}
_MIRROR |= {v: k for k, v in _MIRROR.items()}


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Which steps, and their numbers: what `config.Data` says of them."""

    steps: tuple[str, ...]
    gamma: float
    invert_above: float  # of 255
    mean: tuple[float, ...]  # by channel
    std: tuple[float, ...]


def scaling(data: config_lib.Data | str) -> Scaling:
    """The scaling of a config; a string is that of its steps by default.

    Raises ConfigError where `config.check` would.
    """
    if isinstance(data, str):
        data = config_lib.Data(normalize=data)
    steps = names.steps(data.normalize)
    return Scaling(steps, data.gamma, data.invert_above, data.mean, data.std)


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
    known = Known(stats)
    for name in how.steps:
        if name == "columns":
            return _columns(image)
        change = _STEPS[name](known, how)
        image = change.of(image, _by_pixel)
        known = _After(known, change)
    return image


def before(stats: Any, how: Scaling, step: str) -> "Known":
    """What is known of an image when the first such step sees it."""
    known = Known(stats)
    for name in how.steps[: how.steps.index(step)]:
        known = _After(known, _STEPS[name](known, how))
    return known


def _by_pixel(number: Any) -> Any:
    return number[..., None, None, :]


def _by_column(number: Any) -> Any:
    return number[..., None]


def _by_channel(number: Any) -> Any:
    return number


@dataclasses.dataclass(frozen=True)
class _Change:
    """A monotone map of intensities.

    of(x, place): the map of an array; `place` lays [..., C] beside it.
    factor: of the deviation, [..., C]; None: the map is not affine.
    turned: 1 where it turns an image over, [..., 1]; None: nowhere.
    """

    of: Callable[[Any, Place], Any]
    factor: Any = None
    turned: Any = None


class Known:
    """What is known of an image: statistics by name, [..., C].

    `values` [..., C, S] has the columns that are intensities, as the pixels
    with these intensities were mapped; where `turned` is 1, the column of a
    name is its mirror image's.
    """

    turned: Any = None

    def __init__(self, stats: Any):
        self.shares = self.values = stats

    @functools.cached_property
    def mean(self) -> Any:
        """Mean intensity."""
        return _column(self.shares, "mean")

    @functools.cached_property
    def std(self) -> Any:
        """Deviation of the intensities."""
        return _column(self.shares, "std")

    @functools.cached_property
    def zero(self) -> Any:
        """What has become of intensity 0."""
        return 0.0 * self.mean

    def __getitem__(self, name: str) -> Any:
        found = self._as_stored(name)
        if self.turned is None:
            return found
        other = self._as_stored(_MIRROR[name])
        return found * (1 - self.turned) + other * self.turned

    def knots(self) -> Any:
        """The distribution from the minimum on: [..., C, N_PARTS + 1]."""
        found = _along(self.values, "up")
        if self.turned is None:
            return found
        turned = self.turned[..., None]
        return found * (1 - turned) + _along(self.values, "down") * turned

    def _as_stored(self, name: str) -> Any:
        if name == "zero":
            return self.zero
        return _column(self.values, name)


class _After(Known):
    """What is known after a change, worked out where it is asked for."""

    def __init__(self, known: Known, change: _Change):
        self._known, self._change = known, change
        self.shares = known.shares
        self.turned = _either(known.turned, change.turned)

    @functools.cached_property
    def values(self) -> Any:
        return self._change.of(self._known.values, _by_column)

    @functools.cached_property
    def zero(self) -> Any:
        return self._change.of(self._known.zero, _by_channel)

    @functools.cached_property
    def mean(self) -> Any:
        if self._change.factor is not None:
            return self._change.of(self._known.mean, _by_channel)
        return self._expected(self.values)

    @functools.cached_property
    def std(self) -> Any:
        if self._change.factor is not None:
            return self._known.std * abs(self._change.factor)
        return self._expected((self.values - self.mean[..., None]) ** 2) ** 0.5

    def _expected(self, values: Any) -> Any:
        """The mean of values of the columns: by the knots, from both ends."""
        total = 0.0
        for way, end in (("up", "min"), ("down", "max")):
            knots = _along(values, way)
            ends = (knots[..., 0] + knots[..., -1]) / 2
            rest = (knots[..., 1:-1].sum(-1) + ends) / N_PARTS
            share = _column(self.shares, f"at_{end}")
            at_end = _column(values, end) * share
            total = total + (at_end + rest * (1 - share)) / 2
        return total


def _along(values: Any, way: str) -> Any:
    """The distribution from below ("up") or above: [..., C, N_PARTS + 1]."""
    ends = [_column(values, name)[..., None] for name in ("min", "max")]
    first, last = (_PLACE[f"{way}_{k}"] for k in (1, N_PARTS - 1))
    _column(values, f"{way}_{N_PARTS - 1}")  # or it says what is missing
    inner = values[..., first : last + 1]
    low, high = ends if way == "up" else ends[::-1]
    return inner.__array_namespace__().concat([low, inner, high], axis=-1)


def _column(stats: Any, name: str) -> Any:
    at = _PLACE[name]
    if at >= stats.shape[-1]:
        raise config_lib.ConfigError(
            f"the statistics have {stats.shape[-1]} columns, of an earlier "
            f"version, and data.normalize needs {len(COLUMNS)}; prepare the "
            "data again"
        )
    return stats[..., at]


def _either(one: Any, other: Any) -> Any:
    if one is None or other is None:
        return other if one is None else one
    return one + other - 2 * one * other


def _none(known: Known, how: Scaling) -> _Change:
    return _Change(lambda x, place: x, 1.0)


def _between(low: Any, span: Any) -> _Change:
    """low -> 0, low + span -> 1; where there is no span, all becomes 0."""
    factor = 1.0 / (span + (span <= 0))
    return _Change(lambda x, place: (x - place(low)) * place(factor), factor)


def _contrast(known: Known, low: Any, span: Any) -> _Change:
    # Few bright specks on black: both percentiles are black, so the brightest
    # pixel stands for the upper one. A flat image has no span; what is left of
    # it after the offset is 0.
    return _between(low, span + (span <= 0) * (known["max"] - low))


def _standard(known: Known, how: Scaling) -> _Change:
    return _contrast(known, known.mean, known.std)


def _percentile(known: Known, how: Scaling) -> _Change:
    return _contrast(known, known["p1"], known["p99_8"] - known["p1"])


def _minmax(known: Known, how: Scaling) -> _Change:
    return _contrast(known, known["min"], known["max"] - known["min"])


def _range(known: Known, how: Scaling) -> _Change:
    return _contrast(known, known["zero"], known["limit"] - known["zero"])


def _global(known: Known, how: Scaling) -> _Change:
    if not how.mean:
        raise config_lib.ConfigError(
            "data.normalize has global, and data.mean is not known before the "
            "training; give data.mean and data.std"
        )
    return _between(np.float32(how.mean), np.float32(how.std))


def _invert(known: Known, how: Scaling) -> _Change:
    """limit - x, or high - x after another step, if the image is bright."""
    stored = known.shares
    share = _column(stored, "mean") / _column(stored, "limit")
    share = share.sum(-1)[..., None] / share.shape[-1]  # of all channels
    bright = (share > how.invert_above / 255) * np.float32(1)
    raw = type(known) is Known
    high = known["limit" if raw else "max"] * bright
    sign = 1 - 2 * bright
    return _Change(lambda x, place: place(high) + x * place(sign), sign, bright)


def _equalize(known: Known, how: Scaling) -> _Change:
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

    def of(x: Any, place: Place) -> Any:
        found = 0.0
        for k in range(N_PARTS):
            end, slope = place(high[..., k]), place(steep[..., k])
            short = ((end - x) * slope).clip(0, 1)
            found = found + (1 - short) * place(weight[..., k])
        return found

    return _Change(of)


def _gamma(known: Known, how: Scaling) -> _Change:
    power = np.float32(1 / how.gamma)
    return _Change(lambda x, place: x.clip(0, 1) ** power)


def _columns(image: Any) -> Any:
    norm = (image * image).sum(-3)[..., None, :, :] ** 0.5
    return image * (1 / (norm + (norm <= 0)))


_STEPS = {
    "percentile": _percentile, "standard": _standard, "minmax": _minmax,
    "range": _range, "global": _global, "invert": _invert,
    "equalize": _equalize, "gamma": _gamma, "none": _none,
}  # fmt: skip
