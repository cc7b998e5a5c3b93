"""Rows as a table in Markdown."""

from typing import Any

from launch.bench import duel

_COLUMNS = (
    "row", "what", "computes in", "seg", "peer", "unit", "ratio",
    "of peak FLOP/s", "peak GB", "load", "peer is",
)  # fmt: skip
HEAD = (f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|")


def line(row: duel.Row) -> str:
    """A row: medians (least to most), both sides where two numbers stand.

    seg's peak memory on a GPU is that with compilation, which JAX cannot
    leave out.
    """
    about, sides = row.about, [row.about["ours"], row.about["peer"]]
    ours, peer = sides
    what = [about["what"]] if "what" in about else []
    if "parameters" in ours:
        what.append(f"U-Net of {ours['parameters'] / 1e6:.3g} M parameters")
    what += [side["note"] for side in reversed(sides) if "note" in side]
    memory = [side.get("peak_memory_gb", "-") for side in sides]
    figures = zip((row.ours, row.peer), about["range"], strict=True)
    cells = (
        row.name,
        "; ".join(what),
        _both([side.get("computes_in", "-") for side in sides]),
        *(_figure(median, *ends) for median, ends in figures),
        row.unit,
        f"**{row.ratio:.2f}**",
        _both(about.get("model_flop_utilisation", ["-", "-"])),
        _both(memory),
        f"{about['load_before']:.1f}",
        f"{peer.get('program', '')}, {peer.get('threads', '')} threads",
    )
    return f"| {' | '.join(cells)} |"


def _figure(median: float, least: float, most: float) -> str:
    if least == most:
        return f"{median:.3g}"
    return f"{median:.3g} ({least:.3g} to {most:.3g})"


def _both(found: list[Any]) -> str:
    shown = [f"{x:.3g}" if isinstance(x, float) else x for x in found]
    return shown[0] if shown[0] == shown[1] else " / ".join(shown)
