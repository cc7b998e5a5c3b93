"""What is to be segmented: files, folders and globs to images and planes."""

import collections
import contextlib
import glob
import os
from collections.abc import Container, Iterable
from pathlib import Path
from typing import NamedTuple

from seg import config as config_lib
from seg.images import about as about_lib
from seg.images import axes, formats, read, slide_zarr, vendors
from seg.predict import ledger

_TABLES = {
    "failures.csv",
    *(form.name for form in formats.FORMATS.values() if form.is_shared),
}
_ENDINGS = {
    form.file("", by_strips)
    for form in formats.FORMATS.values()
    if not form.is_shared
    for by_strips in (False, True)
}


class Inputs(NamedTuple):
    """The images that were named, each once.

    skipped: how many other files lay beside them, by their endings; n_results:
    how many images, that are results; deeper: folders beside them with images.
    """

    images: list[Path]
    skipped: collections.Counter[str]
    n_results: int = 0
    deeper: tuple[Path, ...] = ()

    def __str__(self) -> str:
        """What was skipped, in one line; "" for nothing."""
        parts = []
        if n := self.skipped.total():
            kinds = ", ".join(
                f"{n} {kind}" for kind, n in self.skipped.most_common()
            )
            parts.append(
                f"{n} file{'s' * (n > 1)} that are no images skipped: {kinds}"
            )
        if n := self.n_results:
            parts.append(
                f"{n} image{'s' * (n > 1)} skipped that are results of images "
                "there; name what is an image of its own"
            )
        if self.deeper:
            first, n = self.deeper[0], len(self.deeper)
            which = f"{first.name}" if n == 1 else f"{n} folders, as {first}"
            parts.append(
                f"images in {which} left out; for those too, give "
                f"'{first.parent}/**/*'"
            )
        return "; ".join(parts)


class _Named(NamedTuple):
    """What an input names: images, results that look like it, other files."""

    images: list[Path]
    results: list[Path]
    others: list[Path]
    deeper: list[Path]


def expand(inputs: Iterable[str]) -> Inputs:
    """The images that files, folders and globs name.

    A folder stands for the images directly in it, a glob for what it matches;
    results of an earlier run are left out of both, and what is no image by its
    name is skipped. Raises UserError for an input that names nothing.
    """
    found: dict[Path, None] = {}
    results: dict[Path, None] = {}
    skipped: dict[Path, None] = {}
    deeper: dict[Path, None] = {}
    for text in inputs:
        try:
            named = _named(text)
        except OSError as error:
            raise config_lib.UserError(f"{text}: {error.strerror}") from error
        for kept, paths in zip(
            (found, results, skipped, deeper), named, strict=True
        ):
            # Not resolved: a link's name may be the only one that says
            # anything.
            kept |= dict.fromkeys(Path(os.path.abspath(p)) for p in paths)
    kinds = collections.Counter(
        _kind(path) for path in skipped if path not in found
    )
    n_results = len(results.keys() - found.keys())
    taken = {path.parent for path in found}
    left = tuple(path for path in deeper if path not in taken)
    return Inputs(list(found), kinds, n_results, left)


def _kind(path: Path) -> str:
    if path.name.startswith("."):
        return "hidden"
    return path.suffix.lower() or "without ending"


def _named(text: str) -> _Named:
    path = Path(text).expanduser()
    if path.is_file() or slide_zarr.is_zarr(path):
        return _Named([path], [], [], [])
    if path.is_dir():
        named = _sorted_out(path.iterdir())
        if named.images:
            named.deeper.extend(_with_images(path))
            return named
        endings = ", ".join((*read.SUFFIXES, *vendors.SUFFIXES))
        what = "only results of images" if named.results else "no images"
        raise config_lib.UserError(
            f"{text}: {what} in this folder ({endings}); "
            f"for folders in it, give '{path}/**/*.png'"
        )
    matches = map(Path, glob.glob(str(path), recursive=True))
    named = _sorted_out(matches)
    if named.images:
        return named
    if named.results:
        raise config_lib.UserError(
            f"{text}: matches only results of images; name those that are "
            "images of their own"
        )
    raise config_lib.UserError(
        f"{text}: no such file or folder, nor a pattern that matches an "
        "image; check the path"
    )


def _sorted_out(paths: Iterable[Path]) -> _Named:
    named = _Named([], [], [], [])
    paths = sorted(paths)
    images = {p for p in paths if _is_image(p) and not p.name.startswith(".")}
    known = {
        (path.parent, path.stem)
        for path in images
        if not slide_zarr.holds_labels(path)
    }
    for path in paths:
        is_result = _is_result(path, known)
        if path in images:
            (named.results if is_result else named.images).append(path)
        elif path.is_file() and not is_result:
            named.others.append(path)
    return named


def _with_images(folder: Path) -> list[Path]:
    """The folders in a folder that hold images, results apart."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or slide_zarr.is_zarr(path):
            continue
        # not a folder, or one that nobody may look into
        with contextlib.suppress(OSError):
            if _sorted_out(path.iterdir()).images:
                found.append(path)
    return found


def _is_result(path: Path, known: Container[tuple[Path, str]]) -> bool:
    """Whether a file was written by an earlier run.

    By the records beside it or, where there are none, by its name, if that is
    the one of a result of an image there. known: (folder, stem) of images.
    """
    folder = path.parent
    if path.name in _TABLES:
        return ledger.holds_record(folder)
    if not (path.is_file() or slide_zarr.holds_labels(path)):
        return False
    stems = [path.name.removesuffix(e) for e in _ENDINGS]
    return any(
        ledger.holds_record(folder, stem)
        or (folder, stem) in known
        or (folder, axes.of_plane(stem)[0]) in known
        for stem in stems
        if stem not in ("", path.name)
    )


def _is_image(path: Path) -> bool:
    if path.suffix.lower() in (*read.SUFFIXES, *vendors.SUFFIXES):
        return path.is_file()
    # not the arrays inside a Zarr, which look like one
    return slide_zarr.is_zarr(path) and not any(
        map(slide_zarr.is_zarr, path.parents)
    )


class Planes(NamedTuple):
    """The images in a file.

    about: what it says, None if it cannot be read. channel: the one that was
    taken because of its name, as "1 (DAPI)".
    """

    items: list[ledger.Item]
    about: about_lib.About | None = None
    channel: str = ""


def planes(
    image: Path, select: str, project: str, n_channels: int = 0
) -> Planes:
    """The planes that a choice leaves of a file, see `seg.images.axes`.

    n_channels: that a model of nuclei takes; 0 = it is another. Of a file with
    other channels the one is taken whose name says that it shows nuclei, if
    the choice says nothing of channels.

    Whatever is wrong, with the file or with the choice, is found by who reads
    the one item that it gives then.
    """
    try:
        about = about_lib.read_about(image)
        channel, k = "", about.of_nuclei
        if (
            k is not None
            and n_channels
            and not read.fits(len(about.channels), n_channels)
            and not axes.parse(select, "").keys() & set(axes.CHANNELS)
        ):
            select = ",".join(filter(None, (select, f"C={k}")))
            channel = f"{k} ({about.channels[k]})"
        found = about.planes(str(image), select, project)
    except config_lib.UserError:
        return Planes([ledger.Item(image, "", select)])
    items = [ledger.Item(image, label, choice) for label, choice in found]
    return Planes(items, about, channel)
