"""The images that labels are of, found by name, or as the only one."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from seg import config as config_lib
from seg.data import annotations
from seg.images import axes, formats, read

_LOG = logging.getLogger(__name__)

# the ends of results' names that hold no objects
NO_OBJECTS = (
    "failures.csv",
    *(
        form.name.removeprefix("{stem}")
        for name, form in formats.FORMATS.items()
        if name not in ("labels", "omezarr", "geojson", "roi", "labelme",
                        "coco", "rle")
    ),
)  # fmt: skip


def _is_made(path: Path) -> bool:
    """Whether a file is hidden, or is named as results are."""
    return (
        path.name.startswith(".")
        or path.stem.endswith("_labels")
        or path.name.endswith(NO_OBJECTS)
    )


class Image(NamedTuple):
    """An image: a file, or by `select` (see `images.axes`) a plane of one."""

    path: Path
    stem: str
    select: str = ""


class Images:
    """The images in a folder, by name, or the one of a single input.

    place: the folder, or a file; empty: there are none, but that an input that
        needs an image takes the only one beside it.
    inputs: the files that are converted, which are no images.
    """

    def __init__(self, place: str, inputs: Sequence[Path] = ()):
        self._by_name: dict[str, Path] = {}
        self._place = place
        self._inputs = {one.resolve() for one in inputs}
        self._only: Path | None = None
        if not place:
            return
        path = Path(place).expanduser()
        if path.is_dir():
            files = sorted(path.iterdir(), reverse=True)
        elif not path.exists():
            raise config_lib.UserError(
                f"--images={place}: no such file or folder; check the path"
            )
        elif len(inputs) > 1:
            raise config_lib.UserError(
                f"--images={place}: one image for {len(inputs)} files; give "
                "the folder of their images"
            )
        else:
            files, self._only = [path], path
        files = [file for file in files if self._is_image(file)]
        self._by_name |= {file.stem: file for file in files}
        self._by_name |= {file.name: file for file in files}

    def of(self, source: annotations.Source, alone: bool) -> str:
        """The name by which `find` knows the image of a source.

        That of the source; where no image has it and the source is `alone`,
        the file of --images, or the only image in the folder if the source
        says no name.
        """
        if self.find(source.image) or not alone:
            return source.image
        # a label image can do without
        wanted = self._place or source.said is not None
        if self._only is None and wanted and not source.named:
            folder = Path(self._place or Path(source.file).parent)
            found = [
                file
                for file in folder.expanduser().iterdir()
                if self._is_image(file) and not _is_made(file)
            ]
            if len(found) == 1:
                self._only = found[0]
                _LOG.warning("%s: taken to be of %s", source.file, found[0])
        if self._only is None:
            return source.image
        self._by_name[self._only.name] = self._only
        return self._only.name

    def _is_image(self, path: Path) -> bool:
        return (
            path.suffix.lower() in read.SUFFIXES
            and path.resolve() not in self._inputs
        )

    def find(self, name: str) -> Image | None:
        """The image of this file name, or stem, perhaps with a plane's."""
        stem = annotations.stem_of(name)
        for text in (name, stem):
            if path := self._by_name.get(text):
                return Image(path, annotations.stem_of(path.name))
        file, select = axes.of_plane(stem)
        if select and (path := self._by_name.get(file)):
            return Image(path, stem, select)
        return None

    def size(self, name: str, said: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of an image. Raises UserError where nobody knows, or both
        say another.
        """
        image = self.find(name)
        if image is None:
            if min(said) > 0:
                return said
            where = f", not in {self._place}" if self._place else ""
            raise config_lib.UserError(
                f"the image {name!r} is needed, for its size{where}; give "
                "--images=FILE, or --images=DIR with an image of that name "
                "(ROIs may be called <stem of the image>_rois.zip)"
            )
        shape = read.read_header(image.path, select=image.select).shape
        if min(said) > 0 and tuple(said) != shape:
            raise config_lib.UserError(
                f"drawn on {said[0]}x{said[1]} px, {image.path} has "
                f"{shape[0]}x{shape[1]}; nothing is resized here"
            )
        return shape

    def read(self, name: str, shape: tuple[int, int]) -> np.ndarray | None:
        """The pixels [H, W, C], None where there is no folder of images.

        Raises UserError where the image is not in it, or of another size.
        """
        image = self.find(name)
        if image is None and self._place:
            raise config_lib.UserError(
                f"--images={self._place}: no image {name!r}; name images and "
                "labels alike, give --images=FILE, or leave it out"
            )
        if image is None:
            return None
        pixels = read.read_image(image.path, select=image.select)
        if pixels.shape[:2] != tuple(shape):
            raise config_lib.UserError(
                f"labels of {shape[0]}x{shape[1]} px, {image.path} has "
                f"{pixels.shape[0]}x{pixels.shape[1]}; nothing is resized here"
            )
        return pixels
