"""Whether both sides of a row computed the same: else its times say nothing.

A side tells numbers under "found", equal names for equal things; one that has
seen the other's arrays tells how far they are apart under "apart".
"""

import dataclasses
from typing import Any

from launch.bench import duel

# What two programs may differ by that add in another order: float32, bfloat16.
_MOST = {
    "first loss": (1e-4, 5e-3),
    "gradient norm": (2e-3, 2e-2),
    "loss of step 2": (1e-3, 1e-2),
    "loss of step 3": (5e-3, 1e-2),
    "probabilities": (1e-3, 0.1),  # largest difference, share of their range
    "pixels": (1e-3, 5e-3),  # share of them that is in another class
    "objects": (1e-2, 1e-2),  # their number
    "foreground": (5e-2, 5e-2),  # its share of two slides of one picture
}


def checked(row: duel.Row) -> duel.Row:
    """The row with how far its sides are `apart`, and the most they may be.

    Raises duel.Failed where they are further.
    """
    ours, peer = (dict(row.about[side]) for side in ("ours", "peer"))
    found, wanted = peer.get("found", {}), ours.get("found", {})
    apart: dict[str, float] = dict(peer.get("apart", {}))
    for name in found.keys() & wanted.keys():
        apart[name] = abs(found[name] / wanted[name] - 1)
    loose = row.about.get("dtype", "bfloat16") == "bfloat16"
    most = {name: _MOST[name][loose] for name in apart}
    for name, difference in apart.items():
        if not difference <= most[name]:  # NaN too
            raise duel.Failed(
                f"the two sides differ by {difference:.2g} in {name}, at most "
                f"{most[name]:.2g} is due to rounding"
            )
    about: dict[str, Any] = {"apart": apart, "apart_at_most": most}
    return dataclasses.replace(row, about={**row.about, **about})
