"""One labelled image of a data set, wherever it comes from."""

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Sample:
    """One labelled image.

    id: unique. group: images of one source share it. split: train, val, test,
    or "" where `split.assign` is to decide.
    load: gives `image` [H, W, C] as stored, with C = model.in_channels,
        `classes` uint8 [H, W] (255 not annotated), `labels` int32 [H, W],
        `overlap_px` (pixels that several masks claimed), and `stats` where
        they are of a larger image than this; raises ImageError.
    shape: gives (H, W) without decoding; raises ImageError.
    stratum: of the group, where images were clustered (data.split=clusters).
    """

    id: str
    group: str
    split: str
    load: Callable[[], dict[str, Any]]
    shape: Callable[[], tuple[int, int]]
    stratum: str = ""
