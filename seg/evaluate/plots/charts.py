"""Charts: the course of a training, AP over the threshold, runs compared."""

import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from seg.evaluate.plots import canvas

History = Sequence[tuple[int, Mapping[str, float]]]

# (title, names of scores without their split, label of the axis, which value
# is the best)
_PANELS: tuple[tuple[str, tuple[str, ...], str, Any], ...] = (
    ("Loss", ("loss",), "loss", None),
    ("Foreground", ("dice", "iou", "miou"), "score", max),
    ("Objects", ("ap50", "ap_mean", "pq", "aji"), "score", max),
    ("Count error", ("count_error",), "share of the objects", min),
    ("Learning rate", ("learning_rate",), "learning rate", None),
    ("Speed", ("tiles_per_second",), "tiles a second", None),
)
_TITLES = {
    "dice": "Dice", "iou": "IoU", "miou": "Mean IoU", "ap50": "AP at IoU 0.5",
    "ap_mean": "Mean AP, IoU 0.5 to 0.9", "pq": "Panoptic quality",
    "f1": "F1 at IoU 0.5", "aji": "Aggregated Jaccard",
    "boundary_f": "Boundary F, 2 px", "count_error": "Count error",
    "loss": "Loss",
}  # fmt: skip
_LOWER_IS_BETTER = ("count_error", "loss")


def ap_curve(
    path: str | os.PathLike[str],
    thresholds: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    intervals: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    *,
    title: str = "Average precision",
) -> None:
    """AP over the IoU threshold, one line each, with its 95 % interval."""
    with canvas.figure(path, 6.6, 4.4) as figure:
        ax = figure.subplots()
        for i, (name, values) in enumerate(curves.items()):
            colour = canvas.colour(i)
            ax.plot(thresholds, values, "o-", color=colour, ms=4, label=name)
            for at in (0, len(values) // 2):
                ax.annotate(
                    f"{values[at]:.3f}", (thresholds[at], values[at]), (3, 6),
                    textcoords="offset points", color=colour, fontsize=9,
                )  # fmt: skip
            bounds = (intervals or {}).get(name)
            if bounds:
                low, high = np.transpose(bounds)
                ax.fill_between(
                    thresholds, low, high, color=colour, alpha=0.13, lw=0
                )
        ax.set(xlabel="IoU threshold", ylabel="average precision")
        ax.set(title=title, ylim=(0, 1.02), xticks=np.round(thresholds, 2))
        bands = "bands: 95 % intervals" if intervals else None
        ax.legend(loc="upper right", title=bands, title_fontsize=9)


def reliability(
    path: str | os.PathLike[str], curve: np.ndarray, error: float
) -> None:
    """How often objects of a probability are right, beside how often it says.

    curve: [bins, 3] of `calibration.reliability`; error: of calibration.
    """
    n, probability, share = curve.T
    with canvas.figure(path, 4.8, 4.6) as figure:
        ax = figure.subplots()
        ax.plot((0, 1), (0, 1), color="#999999", lw=1, ls="--")
        ax.plot(probability, share, "o-", color=canvas.colour(0), ms=6)
        ax.set(xlabel="probability", ylabel="share that is right")
        ax.set(xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal")
        ax.set_title(f"{n.sum():,.0f} objects, calibration error {error:.3f}")


def curves(
    history: History, folder: str | os.PathLike[str]
) -> list[pathlib.Path]:
    """Losses, scores and speed over the steps of one run: the files written.

    history: (step, {"train/loss": ..., "val/dice": ...}) in any order; names
    that have no panel, and values that are not finite, are left out.
    """
    lines = _lines(history)
    panels = []
    for title, tails, label, best in _PANELS:
        names = [
            name
            for tail in tails
            for name in sorted(lines)
            if name.rpartition("/")[2] == tail
        ]
        if names:
            panels.append((title, names, label, best))
    if not panels:
        return []
    if not canvas.available():
        logging.warning("no curves drawn: matplotlib is not installed")
        return []
    path = pathlib.Path(folder) / "training.png"
    last = max(steps[-1] for steps, _ in lines.values())
    n_cols = 2 if len(panels) in (2, 4) else min(len(panels), 3)
    n_rows = -(-len(panels) // n_cols)
    with canvas.figure(path, 4.9 * n_cols, 3.5 * n_rows) as figure:
        axes = figure.subplots(n_rows, n_cols, squeeze=False).ravel()
        for ax, (title, names, label, best) in zip(axes, panels, strict=False):
            for i, name in enumerate(names):
                _line(ax, name, *lines[name], canvas.colour(i), best)
            ax.set(title=title, xlabel="step", ylabel=label)
            ax.set_xlim(-0.02 * last, 1.02 * last + 1)
            ax.yaxis.set_major_formatter("{x:g}")
            ax.legend(loc="best", fontsize=9)
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
    return [path]


def _lines(history: History) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{name: (steps, values)}, by step, the last value of a step."""
    found: dict[str, dict[int, float]] = {}
    for step, values in history:
        for name, value in values.items():
            if np.isfinite(value):
                found.setdefault(name, {})[step] = float(value)
    return {
        name: (
            np.array(sorted(by_step)),
            np.array([by_step[s] for s in sorted(by_step)]),
        )
        for name, by_step in found.items()
    }


def _line(
    ax: Any,
    name: str,
    steps: np.ndarray,
    values: np.ndarray,
    colour: str,
    best: Any,
) -> None:
    label = name if best is None else f"{name}, best {best(values):.3f}"
    if len(values) < 40:
        ax.plot(steps, values, "o-", color=colour, ms=4, label=label)
        return
    if name.endswith("rate"):
        ax.plot(steps, values, color=colour, label=label)
        return
    # many noisy points: a pale line, and its mean over a fortieth each way
    width = len(values) // 40
    total = np.cumsum(np.pad(values, (1, 0)))
    low = np.maximum(np.arange(len(values)) - width, 0)
    high = np.minimum(np.arange(len(values)) + width + 1, len(values))
    smooth = (total[high] - total[low]) / (high - low)
    ax.plot(steps, values, color=colour, alpha=0.25, lw=1)
    ax.plot(steps, smooth, color=colour, label=label)


def comparison(
    path: str | os.PathLike[str],
    runs: Mapping[str, Mapping[str, float]],
    names: Sequence[str],
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
) -> None:
    """Scores of several runs: a panel a score, a line a run, the best bold.

    runs, intervals: {run: {"test/dice": ...}}; what a run has not is left out.
    """
    wide = 1.3 + 0.075 * max(map(len, runs))
    with canvas.figure(
        path, wide + 2.6 * len(names), 1.15 + 0.36 * len(runs)
    ) as figure:
        axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for ax, name in zip(axes, names, strict=True):
            _scores(ax, runs, name, intervals or {})
        axes[0].set_yticks(range(len(runs)), list(runs))
        axes[0].set_ylim(len(runs) - 0.45, -0.55)


def _scores(ax: Any, runs: Mapping, name: str, intervals: Mapping) -> None:
    tail = name.rpartition("/")[2]
    less = tail in _LOWER_IS_BETTER
    values = {
        run: scores[name] for run, scores in runs.items() if name in scores
    }
    best = (min if less else max)(values.values(), default=None)
    for at, run in enumerate(runs):
        if run not in values:
            continue
        value, colour = values[run], canvas.colour(at)
        bounds = intervals.get(run, {}).get(name)
        if bounds:
            ax.plot(bounds, (at, at), color=colour, lw=5, alpha=0.25)
        ax.plot(value, at, "o", color=colour, ms=8)
        ax.annotate(
            f"{value:.3f}", (value, at), (0, 7), textcoords="offset points",
            ha="center", fontsize=9,
            fontweight="bold" if value == best else "normal",
        )  # fmt: skip
    ax.set_title(f"{_TITLES.get(tail, tail)} {'↓' if less else '↑'}")
    ax.margins(x=0.22)
    ax.locator_params(axis="x", nbins=4)
    ax.tick_params(axis="y", length=0, labelsize=10, labelcolor="#222222")
    ax.spines["left"].set_visible(False)
