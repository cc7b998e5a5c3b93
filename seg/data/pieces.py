"""data.split=tiles: every tile is a sample of its own, which leaks.

arXiv:1907.03576 cut its images into patches, and validated on a random share
of them: most had an overlapping neighbour, and all had others of their image,
among those for training. This does the same, so that the leak can be measured:
images are cut into the tiles of training (data.tile, data.overlap), each a
group by itself. The scores to compare with are those of data.split=group.

The test stays whole: as published, else chosen by group.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from seg import config as config_lib
from seg import normalize
from seg.data import masks, pipeline, split
from seg.data.sample import Sample


def cut(samples: list[Sample], config: config_lib.Config) -> list[Sample]:
    """The whole images of the test, and the tiles of all others.

    Raises ConfigError where the images are to be resized.
    """
    data = config.data
    if data.resize:
        raise config_lib.ConfigError(
            "data.split=tiles cuts images, data.resize="
            f"{data.resize} shrinks them whole; use one of the two"
        )
    if not any(sample.split for sample in samples):
        chosen = split.assign(samples, 0.0, data.test_frac, data.split_seed)
        samples = [dataclasses.replace(s, split=chosen[s.id]) for s in samples]
    test = [sample for sample in samples if sample.split == "test"]
    pool = [sample for sample in samples if sample.split != "test"]

    # tiles of an image come one after the other: it is decoded once for all
    @functools.lru_cache(maxsize=1)
    def whole(i: int) -> dict[str, Any]:
        found = pool[i].load()
        return found | {"stats": normalize.measure(found["image"])}

    shapes = np.array([sample.shape() for sample in pool]).reshape(-1, 2)
    tiles = []
    for i, row, col in pipeline.tile_table(shapes, data).tolist():
        name = f"{pool[i].id}@{row},{col}"
        box = np.s_[row : row + data.tile, col : col + data.tile]
        load = functools.partial(_piece, whole, i, box)
        size = tuple(np.minimum(shapes[i] - (row, col), data.tile).tolist())
        tiles.append(
            Sample(name, name, "", load, functools.partial(tuple, size))
        )
    share = min(data.val_frac * len(samples) / max(len(pool), 1), 0.5)
    alike = dict.fromkeys((tile.id for tile in tiles), "")
    chosen = split.assign(tiles, share, 0.0, data.split_seed, strata=alike)
    tiles = [dataclasses.replace(t, split=chosen[t.id]) for t in tiles]
    return sorted(test + tiles, key=lambda sample: sample.id)


def _piece(whole: Any, i: int, box: tuple[slice, slice]) -> dict[str, Any]:
    found = whole(i)
    first = box[0].start == box[1].start == 0
    return {
        "image": found["image"][box],
        "stats": found["stats"],  # of the whole image, as everywhere
        "classes": found["classes"][box],
        "labels": masks.sequential(found["labels"][box]),
        "overlap_px": found["overlap_px"] if first else 0,
    }
