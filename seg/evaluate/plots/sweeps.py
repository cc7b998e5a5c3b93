"""Many trainings in one picture: by their knobs, and over their steps."""

import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from seg.evaluate.plots import canvas

_MAP = "viridis"  # read by the colour-blind, and in grey
_LOG = 4.0  # largest by smallest value, from which an axis may be logarithmic
_NAMED = 7  # lines that have a colour and a name each
_BEST = 3  # that are named of more
_TICKS = 6
_LINE = 0.05  # of an axis: two numbers nearer than that would overlap
_WRAPPED = 8  # texts on an axis, of which more have no room for two lines


def parallel(
    path: str | os.PathLike[str],
    trials: Sequence[Mapping[str, Any]],
    scores: Sequence[float],
    *,
    label: str,
    lower_is_better: bool = False,
) -> None:
    """Parallel coordinates: an axis a knob, a line a trial, coloured by score.

    The last axis is the score, its best end on top; the best trial is bold.
    Texts, truth values and tuples are categories, in the order in which they
    first come. Lines through one value lie beside each other.

    trials: {knob: value}, the same knobs in each; scores: finite.
    """
    knobs = list(trials[0])
    order = sorted(
        range(len(trials)), key=lambda i: scores[i], reverse=lower_is_better
    )
    axes = [_Axis([t[knob] for t in trials], order) for knob in knobs]
    axes.append(_Axis(list(scores), order, lower_is_better, log=False))
    colours = _colours(scores, lower_is_better)
    width = max(6.4, 1.2 + 2.1 * len(axes))
    with canvas.figure(path, width, 4.8) as figure:
        ax = figure.subplots()
        at = np.arange(len(axes))
        for i in order:
            best = i == order[-1]
            xs, ys = _curve(at, [axis.at[i] for axis in axes])
            if best:
                ax.plot(xs, ys, color="white", lw=6, zorder=3)
            ax.plot(
                xs, ys, color=colours[i], lw=3.4 if best else 1.8,
                alpha=1 if best else 0.85, zorder=4 if best else 2,
            )  # fmt: skip
        for x, axis in enumerate(axes):
            ax.axvline(x, color="#888888", lw=1, zorder=1)
            _ticks(ax, x, axis, left=x == 0)
        ax.set(xlim=(-0.05, at[-1] + 0.05), ylim=(-0.1, 1.1), yticks=[])
        ax.set_xticks(
            at, [*knobs, f"{label} {'↓' if lower_is_better else '↑'}"]
        )
        ax.tick_params(axis="x", length=0, labelsize=11, labelcolor="#222222")
        ax.grid(False)
        for side in ax.spines.values():
            side.set_visible(False)
        ax.set_title(f"{len(trials)} settings by {label}; the best one is bold")


class _Axis:
    """Where the values of one knob lie on an axis from 0 to 1."""

    def __init__(
        self,
        values: list[Any],
        order: list[int],
        flipped: bool = False,
        *,
        log: bool = True,
    ):
        self.category = not all(
            isinstance(v, int | float) and not isinstance(v, bool)
            for v in values
        )
        if self.category:
            self._categories(values, order)
        else:
            self._numbers(np.array(values, float), order, flipped, log)

    def _categories(self, values: list[Any], order: list[int]) -> None:
        texts = [_text(value) for value in values]
        names = list(dict.fromkeys(texts))
        few = len(names) <= _WRAPPED
        step = 1 / len(names)
        centre = {name: 1 - (k + 0.5) * step for k, name in enumerate(names)}
        self.ticks = [
            (centre[name], textwrap.fill(name, 24) if few else name)
            for name in names
        ]
        self.at = _apart(np.array([centre[text] for text in texts]), order)

    def _numbers(
        self, values: np.ndarray, order: list[int], flipped: bool, log: bool
    ) -> None:
        low, high = values.min(), values.max()
        self._log = log and low > 0 and _is_log(values)
        self._range = (*self._scaled([low, high]), flipped)
        self.at = _apart(self._place(values), order)
        known = np.unique(values)
        places = self._place(known)
        nearest = np.abs(np.diff(places)).min(initial=1)
        if len(known) > _TICKS or nearest < _LINE:
            known = _round_ticks(low, high, self._log)
        self.ticks = [(float(self._place(v)), f"{v:.4g}") for v in known]

    def _scaled(self, values: Any) -> np.ndarray:
        values = np.asarray(values, float)
        return np.log(values) if self._log else values

    def _place(self, values: Any) -> np.ndarray:
        low, high, flipped = self._range
        if high == low:
            return np.full(np.shape(values), 0.5)
        share = (self._scaled(values) - low) / (high - low)
        return 1 - share if flipped else share


def _apart(at: np.ndarray, order: list[int]) -> np.ndarray:
    """The places, those of one value a little apart, the best on top."""
    places = np.unique(at)
    gap = np.diff(places).min(initial=1.0)
    moved = at.copy()
    for place in places:
        members = [i for i in order if at[i] == place]
        half = min(0.25 * gap, 0.015 * (len(members) - 1), 0.08)
        moved[members] += np.linspace(-half, half, len(members))
    return moved


def _is_log(values: np.ndarray) -> bool:
    """Whether values are spread more evenly by their logarithms."""
    if values.max() / values.min() < _LOG:
        return False
    off = [
        abs(np.median(v) - (v.min() + v.max()) / 2) / np.ptp(v)
        for v in (np.unique(values), np.log(np.unique(values)))
    ]
    return bool(off[1] < off[0])


def _round_ticks(low: float, high: float, log: bool) -> np.ndarray:
    from matplotlib import ticker

    if log:
        subs = (1, 3) if high / low < 1e3 else (1,)
        locator: Any = ticker.LogLocator(subs=subs)
    else:
        locator = ticker.MaxNLocator(_TICKS)
    values = np.asarray(locator.tick_values(low, high))
    return values[(values >= low) & (values <= high)]


def _curve(at: np.ndarray, ys: Sequence[float]) -> tuple[Any, Any]:
    """A smooth line that is level at the axes, where lines are told apart."""
    share = np.linspace(0, 1, 24, endpoint=False)
    ease = share**2 * (3 - 2 * share)
    xs = (at[:-1, None] + share).ravel()
    low, high = np.array(ys[:-1]), np.array(ys[1:])
    smooth = (low[:, None] + (high - low)[:, None] * ease).ravel()
    return np.append(xs, at[-1]), np.append(smooth, ys[-1])


def _ticks(ax: Any, x: float, axis: _Axis, *, left: bool) -> None:
    for y, text in axis.ticks:
        ax.plot([x - 0.012, x + 0.012], [y, y], color="#888888", lw=1)
        ax.annotate(
            text, (x, y), (-7 if left else 7, 0), textcoords="offset points",
            va="center", ha="right" if left else "left", fontsize=9, zorder=5,
            bbox={"fc": "white", "ec": "none", "alpha": 0.8, "pad": 1},
        )  # fmt: skip


def _text(value: Any) -> str:
    if isinstance(value, tuple | list):
        value = ", ".join(map(str, value))
    return str(value) or "none"


def _colours(scores: Sequence[float], lower_is_better: bool) -> list[Any]:
    """By score, the best one dark."""
    import matplotlib

    values = np.array(scores, float)
    span = np.ptp(values) or 1.0
    share = (values - values.min()) / span
    if lower_is_better:
        share = 1 - share
    return list(matplotlib.colormaps[_MAP](0.92 * (1 - share)))


def courses(
    path: str | os.PathLike[str],
    runs: Mapping[str, Sequence[tuple[Sequence[int], Sequence[float]]]],
    *,
    label: str,
    lower_is_better: bool = False,
    order: Sequence[str] = (),
) -> None:
    """One metric over the steps of many trainings.

    runs: {name: [(steps, values), ...]}, a line for each seed; lines of one
    name have one colour. Up to seven names have a colour each and a place in
    the legend; of more only the first three have.

    order: of the names, of pictures in which they shall have the same colours;
    without it they are in the order of their best score.
    """
    best = min if lower_is_better else max
    scores = {}
    for name, lines in runs.items():
        values = [v for _, line in lines for v in line if math.isfinite(v)]
        if values:
            scores[name] = best(values)
    names = sorted(scores, key=scores.__getitem__, reverse=not lower_is_better)
    colours = {name: canvas.colour(i) for i, name in enumerate(order or names)}
    names = [name for name in order or names if name in scores]
    n_named = len(names) if len(names) <= _NAMED else _BEST
    title = f"{label} over the steps"
    if n_named < len(names):
        title += f"; the {'first' if order else 'best'} {n_named}"
        title += f" of {len(names)}"
    with canvas.figure(path, 8, 4.4 + 0.2 * n_named) as figure:
        ax = figure.subplots()
        handles = []
        for i in range(len(names))[::-1]:
            style = {"color": "#c4c4c4", "lw": 1.2}
            if i < n_named:
                style = {"color": colours[names[i]], "lw": 2}
            for steps, values in runs[names[i]]:
                marker = "o-" if len(steps) < 40 else "-"
                (line,) = ax.plot(steps, values, marker, ms=3.5, **style)
            handles.insert(0, line)
        ax.set(title=title, xlabel="step", ylabel=label)
        ax.yaxis.set_major_formatter("{x:g}")
        figure.legend(
            handles[:n_named],
            [f"{scores[name]:.3f}  {name}" for name in names[:n_named]],
            loc="outside lower left",
            fontsize=9,
        )
