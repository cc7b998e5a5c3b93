"""What is to be segmented: files, folders and globs to images and planes."""

import collections
import glob
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from seg import config as config_lib
from seg.images import about as about_lib
from seg.images import formats, read, slide_zarr, vendors
from seg.predict import ledger


class Inputs(NamedTuple):
    """The images that were named, each once.

    skipped: how many other files lay beside them, by their endings.
    """

    images: list[Path]
    skipped: collections.Counter[str]

    def __str__(self) -> str:
        """What was skipped, in one line; "" for nothing."""
        if not self.skipped:
            return ""
        n = self.skipped.total()
        kinds = ", ".join(
            f"{n} {kind}" for kind, n in self.skipped.most_common()
        )
        return f"{n} file{'s' * (n > 1)} that are no images skipped: {kinds}"


def expand(inputs: Iterable[str], out: Path) -> Inputs:
    """The images that files, folders and globs name.

    A folder stands for the images directly in it, a glob for what it matches;
    results of an earlier run in `out` are left out of both, and what is no
    image by its name is skipped. Raises UserError for an input that names
    nothing.
    """
    found: dict[Path, None] = {}
    skipped: dict[Path, None] = {}
    for text in inputs:
        try:
            files, others = _named(text, out)
        except OSError as error:
            raise config_lib.UserError(f"{text}: {error.strerror}") from error
        # Not resolved: a link's name may be the only one that says anything.
        found |= dict.fromkeys(Path(os.path.abspath(file)) for file in files)
        skipped |= dict.fromkeys(Path(os.path.abspath(o)) for o in others)
    kinds = collections.Counter(
        _kind(path) for path in skipped if path not in found
    )
    return Inputs(list(found), kinds)


def _kind(path: Path) -> str:
    if path.name.startswith("."):
        return "hidden"
    return path.suffix.lower() or "without ending"


def _named(text: str, out: Path) -> tuple[list[Path], list[Path]]:
    """(images, other files) of an input."""
    path = Path(text).expanduser()
    if path.is_file() or slide_zarr.is_zarr(path):
        return [path], []
    if path.is_dir():
        files, others = _images(path.iterdir(), out)
        if files:
            return files, others
        endings = ", ".join((*read.SUFFIXES, *vendors.SUFFIXES))
        raise config_lib.UserError(
            f"{text}: no images in this folder ({endings}); "
            f"for folders in it, give '{path}/**/*.png'"
        )
    matches = map(Path, glob.glob(str(path), recursive=True))
    files, others = _images(matches, out)
    if files:
        return files, others
    raise config_lib.UserError(
        f"{text}: no such file or folder, nor a pattern that matches an "
        "image; check the path"
    )


def _images(paths: Iterable[Path], out: Path) -> tuple[list[Path], list[Path]]:
    endings = tuple(
        form.file("", by_strips)
        for form in formats.FORMATS.values()
        if form.per_image
        for by_strips in (False, True)
    )
    files, others = [], []
    for path in sorted(paths):
        is_result = path.parent.resolve() == out.resolve() and (
            path.name.endswith(endings)
            and (path.is_file() or slide_zarr.holds_labels(path))
        )
        if _is_image(path) and not path.name.startswith("."):
            if not is_result:
                files.append(path)
        elif path.is_file() and not (is_result or _is_table(path, out)):
            others.append(path)
    return files, others


def _is_table(path: Path, out: Path) -> bool:
    names = {form.name for form in formats.FORMATS.values() if form.is_shared}
    return (
        path.name in names | {"failures.csv"}
        and path.parent.resolve() == out.resolve()
    )


def _is_image(path: Path) -> bool:
    if path.suffix.lower() in (*read.SUFFIXES, *vendors.SUFFIXES):
        return path.is_file()
    # not the arrays inside a Zarr, which look like one
    return slide_zarr.is_zarr(path) and not any(
        map(slide_zarr.is_zarr, path.parents)
    )


class Planes(NamedTuple):
    """The images in a file; about: what it says, None if it cannot be read."""

    items: list[ledger.Item]
    about: about_lib.About | None = None


def planes(image: Path, select: str, project: str) -> Planes:
    """The planes that a choice leaves of a file, see `seg.images.axes`.

    Whatever is wrong, with the file or with the choice, is found by who reads
    the one item that it gives then.
    """
    try:
        about = about_lib.read_about(image)
        found = about.planes(str(image), select, project)
    except config_lib.UserError:
        return Planes([ledger.Item(image, "", select)])
    items = [ledger.Item(image, label, choice) for label, choice in found]
    return Planes(items, about)
