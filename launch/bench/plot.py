"""A bar for each row: how many times faster than the peer, or slower."""

import pathlib
import textwrap
from typing import Any

from launch.bench import duel
from seg.images import write

_AHEAD, _BEHIND = "#2a7f62", "#b8552b"


def ratios(
    rows: list[duel.Row], machine: dict[str, Any], file: pathlib.Path
) -> None:
    """Draws the ratios of the rows, first row on top, as a PNG file.

    The axis is logarithmic, so that twice as fast and half as fast are equally
    long; bars begin at 1. Beside each stand what was measured and the peer.
    """
    from matplotlib import figure

    height = 1.4 + 0.62 * len(rows)
    chart = figure.Figure((11, height), dpi=150, layout="constrained")
    axes = chart.subplots()
    places = range(len(rows))[::-1]
    for place, row in zip(places, rows, strict=True):
        colour = _AHEAD if row.ratio >= 1 else _BEHIND
        axes.barh(place, row.ratio - 1, 0.56, left=1, color=colour)
        axes.annotate(
            f"{row.ratio:.2f}",
            (row.ratio, place),
            (4 if row.ratio >= 1 else -4, 0),
            textcoords="offset points",
            va="center",
            ha="left" if row.ratio >= 1 else "right",
            weight="bold",
        )
    _scale(axes, [row.ratio for row in rows])
    axes.set_yticks(places, [_label(row) for row in rows], fontsize=8)
    axes.set_xlabel("ratio to the peer; right of 1, seg is ahead")
    axes.set_title(_title(machine, rows), fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", which="both", alpha=0.2)
    axes.set_axisbelow(True)
    with write.whole(file) as temporary:
        chart.savefig(temporary, format="png")


def _scale(axes: Any, found: list[float]) -> None:
    """A logarithmic axis with 1 on it, and room for the numbers at the ends."""
    low, high = min(0.8, *found), max(1.25, *found)
    room = (high / low) ** 0.1
    from matplotlib import ticker

    axes.set_xscale("log")
    axes.set_xlim(low / room, high * room)
    axes.axvline(1, color="black", linewidth=1)
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.xaxis.set_minor_locator(ticker.NullLocator())


def _label(row: duel.Row) -> str:
    peer = row.about["peer"].get("program", "peer")
    return (
        f"{row.name}\n{row.ours:.3g} against {row.peer:.3g} {row.unit}\n"
        + textwrap.shorten(peer, 60, placeholder="...")
    )


def _title(machine: dict[str, Any], rows: list[duel.Row]) -> str:
    devices = {row.about["ours"].get("device", "cpu") for row in rows} - {"cpu"}
    versions = machine["versions"]
    shown = ", ".join(
        f"{name} {versions[name]}"
        for name in ("jax", "openvino", "torch", "scikit-image")
        if versions.get(name, "-") != "-"
    )
    cpu = f"{machine['cpu']}, {machine['cores']} cores"
    return f"{', '.join([*devices, cpu])}; {machine['date']}\n{shown}"
