"""Files of microscopes that bioio reads: Zeiss CZI, Nikon ND2, Leica LIF.

bioio and its plugins are an extra, `formats`. A plane is decoded at once, and
no other with it. The scenes of a file (positions, series) are its axis P, and
must have the same planes; mosaic tiles are put together by bioio.
"""

import importlib
import itertools
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from seg import config, images
from seg.images import axes, metadata, projection

_PLUGINS = {".czi": "bioio_czi", ".nd2": "bioio_nd2", ".lif": "bioio_lif"}
SUFFIXES = tuple(_PLUGINS)


def is_vendor(source: str | os.PathLike[str] | bytes) -> bool:
    """Whether a file is read by bioio, by its name."""
    if isinstance(source, bytes):
        return False
    path = pathlib.Path(source)
    return path.suffix.lower() in _PLUGINS and path.is_file()


class Stack(NamedTuple):
    """An open file.

    letters, lengths: of its axes, scenes (P) first, Y and X of the largest.
    channels, pixel_size: see `about.About`.
    """

    image: Any
    name: str
    suffix: str
    letters: str
    lengths: tuple[int, ...]
    channels: tuple[str, ...]
    pixel_size: metadata.Size | None

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the largest scene."""
        rows, cols = (self.lengths[self.letters.index(axis)] for axis in "YX")
        return rows, cols

    def read(self, select: str) -> np.ndarray:
        """A plane [H, W, C] in the type that is stored, or several merged."""
        kind, each = axes.merged(self.letters, self.lengths, self.name, select)
        planes = map(self._plane, each)
        return projection.over(kind, planes) if kind else next(planes)

    def _plane(self, select: str) -> np.ndarray:
        index, _ = axes.choose(self.letters, self.lengths, self.name, select)
        wanted = {
            axis: axes.positions(part, length)
            for axis, length, part in zip(
                self.letters, self.lengths, index, strict=True
            )
            if axis not in "YXS"
        }
        self.image.set_scene(wanted.pop("P")[0])
        planes = [
            self._decoded(dict(zip(wanted, at, strict=True)))
            for at in itertools.product(*wanted.values())
        ]
        stacked = np.stack(planes)  # of channels: the others are single
        if "S" in self.letters:
            stacked = axes.take(
                stacked, (*[slice(None)] * 3, index[self.letters.index("S")])
            )
        letters = "C" + "YXS"[: stacked.ndim - 1]
        return axes.channels_last(stacked, letters)

    def _decoded(self, at: dict[str, int]) -> np.ndarray:
        """[H, W], or [H, W, S] of colours."""
        if "S" in self.letters:
            # of a lazy array, bioio-czi 3.0 gives the first colour thrice
            colours = self.image.get_image_data("YXS", **at)
            # and it leaves them as CZI has them: blue, green, red
            return colours[..., ::-1] if self.suffix == ".czi" else colours
        return self.image.get_image_dask_data("YX", **at).compute()


def open_file(source: str | os.PathLike[str], name: str) -> Stack:
    """Opens a file; raises ImageError, UserError where bioio is missing."""
    suffix = pathlib.Path(source).suffix.lower()
    try:
        import bioio

        plugin = importlib.import_module(_PLUGINS[suffix])
    except ImportError as error:
        raise config.UserError(
            f"{name}: {suffix[1:].upper()} needs bioio and {_PLUGINS[suffix]}; "
            "pip install -e .[formats], or save it as OME-TIFF"
        ) from error
    if suffix == ".lif":
        _check_colours(source, name)
    image = bioio.BioImage(os.fspath(source), reader=plugin.Reader)
    found = []
    for i in range(len(image.scenes)):
        image.set_scene(i)
        found.append((image.dims.order, tuple(image.shape)))
    order = found[0][0]
    at = [order.index(axis) for axis in "YX"]
    planes = {
        (letters, tuple(n for k, n in enumerate(shape) if k not in at))
        for letters, shape in found
    }
    if len(planes) > 1:
        raise images.ImageError(
            f"{name}: its {len(found)} scenes have not the same planes; save "
            "each as a file of its own"
        )
    largest = [max(sizes) for sizes in zip(*(s for _, s in found), strict=True)]
    image.set_scene(0)
    sizes = image.physical_pixel_sizes
    n = largest[order.index("C")]
    return Stack(
        image,
        name,
        suffix,
        "P" + order,
        (len(found), *largest),
        metadata.named(image.channel_names or (), n),
        metadata.size(sizes.Y, sizes.X, "um", "um"),
    )


def _check_colours(source: str | os.PathLike[str], name: str) -> None:
    """Raises ImageError for what bioio-lif 2.0 takes for a broken file."""
    import liffile  # what it reads by

    with liffile.LifFile(source) as file:
        for scene in file.images:
            if "S" in scene.sizes:
                raise images.ImageError(
                    f"{name}: {scene.path} is in colours, which bioio-lif does "
                    "not read; save it as OME-TIFF"
                )
