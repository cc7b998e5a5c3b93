"""Many images into one folder, and again after an interruption.

Each image's results are written first, each whole, then its record in the
`ledger`; an image whose record still holds is skipped. The tables of all images
are made from the records, so that they come out the same however often a run
was stopped, and cover all that lies in the folder, whichever call put it there.
While the objects of one image are found and written, the network has the next,
unless it is a large one.
An image that cannot be used does not stop the others: it is listed in
`failures.csv`.
"""

import contextlib
import dataclasses
import glob
import logging
import math
import os
import pathlib
import shutil
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import numpy as np

from seg import config as config_lib
from seg.images import formats, read, slide, slide_write, slide_zarr, write
from seg.predict import ledger as ledger_lib
from seg.predict import summary

if typing.TYPE_CHECKING:  # it brings JAX, which a finished folder never needs
    from seg.predict import predictor as predictor_lib

Path = pathlib.Path

_LOG = logging.getLogger(__name__)
_FAILURES = "failures.csv"
_SMALL = 2**24  # pixels


@dataclasses.dataclass
class Outcome:
    """What became of the images: counts, and (path, reason) of failures."""

    n_done: int = 0
    n_skipped: int = 0
    failures: list[tuple[Path, str]] = dataclasses.field(default_factory=list)

    @property
    def n_images(self) -> int:
        """All images, whatever became of them."""
        return self.n_done + self.n_skipped + len(self.failures)


def expand(inputs: Iterable[str], out: Path) -> list[Path]:
    """The images that files, folders and globs name, each once.

    A folder stands for the images directly in it, a glob for what it matches;
    results of an earlier run in `out` are left out of both. Raises UserError
    for an input that names nothing.
    """
    found: dict[Path, None] = {}
    for text in inputs:
        try:
            files = _named(text, out)
        except OSError as error:
            raise config_lib.UserError(f"{text}: {error.strerror}") from error
        # Not resolved: a link's name may be the only one that says anything.
        found |= dict.fromkeys(Path(os.path.abspath(file)) for file in files)
    return list(found)


def _named(text: str, out: Path) -> list[Path]:
    path = Path(text).expanduser()
    if path.is_file() or slide_zarr.is_zarr(path):
        return [path]
    if path.is_dir():
        if files := _images(path.iterdir(), out):
            return files
        raise config_lib.UserError(
            f"{text}: no images in this folder ({', '.join(read.SUFFIXES)}); "
            f"for folders in it, give '{path}/**/*.png'"
        )
    if files := _images(map(Path, glob.glob(str(path), recursive=True)), out):
        return files
    raise config_lib.UserError(
        f"{text}: no such file or folder, nor a pattern that matches an "
        "image; check the path"
    )


def _images(paths: Iterable[Path], out: Path) -> list[Path]:
    endings = tuple(
        form.file("", by_strips)
        for form in formats.FORMATS.values()
        if form.per_image
        for by_strips in (False, True)
    )
    return sorted(
        path
        for path in paths
        if _is_image(path)
        and not path.name.startswith(".")
        and not (
            path.name.endswith(endings)
            and path.parent.resolve() == out.resolve()
            and (path.is_file() or slide_zarr.holds_labels(path))
        )
    )


def _is_image(path: Path) -> bool:
    if path.suffix.lower() in read.SUFFIXES:
        return path.is_file()
    # not the arrays inside a Zarr, which look like one
    return slide_zarr.is_zarr(path) and not any(
        map(slide_zarr.is_zarr, path.parents)
    )


def run(
    images: Sequence[Path],
    out: Path,
    names: Sequence[str],
    settings: Mapping[str, Any],
    predictor: Callable[[], "predictor_lib.Predictor"],
    *,
    overwrite: bool = False,
    select: str = "",
    progress: Callable[[Sequence[Path]], Iterable[Path]] = iter,
    check: Callable[[], None] = lambda: None,
) -> Outcome:
    """Segments images into a folder.

    Parameters
    ----------
    images : files, from `expand`.
    out : the folder, absolute; made where it is missing.
    names : keys of `formats.FORMATS`.
    settings : JSON values that decide the result: the model's digest, ... An
        image is done again when they, or the file, have changed.
    predictor : gives the predictor; called once an image needs it.
    overwrite : do all images again.
    select : the plane of a stack, as `read.read_image` takes it.
    progress : wraps the images, to show how far it is.
    check : called often while a slide is worked on; may raise to stop.

    Raises
    ------
    UserError
        where the folder cannot be written, or another process writes there;
        what is finished stays.
    """
    settings = {**settings, "select": select}
    outcome = Outcome()
    with contextlib.ExitStack() as held:
        ledger = held.enter_context(ledger_lib.held(out))
        network = futures.ThreadPoolExecutor(1)
        held.callback(network.shutdown, cancel_futures=True)
        stems = ledger.stems(images)
        use = None
        maps: dict[Path, futures.Future[_Map]] = {}

        def job_of(image: Path) -> _Job | None:
            if not overwrite and ledger.holds(image, settings, names):
                return None
            return _Job(out, image, stems[image], names, settings, select)

        for i, image in enumerate(progress(images)):
            work = ledger.work(stems[image])
            job = job_of(image)
            if not job:
                shutil.rmtree(work, ignore_errors=True)
                outcome.n_skipped += 1
                continue
            if overwrite:
                shutil.rmtree(work, ignore_errors=True)
            use = use or predictor()
            try:
                if slide.is_slide(image):
                    job.do_slide(use, ledger, check)
                else:
                    if image not in maps:
                        maps[image] = network.submit(job.mapped, use)
                    for each in filter(_is_small, images[i + 1 : i + 2]):
                        if later := job_of(each):
                            maps[each] = network.submit(later.mapped, use)
                    job.do_image(use, maps.pop(image).result(), ledger)
            except _Unusable as error:
                reason = str(error.__cause__) or "not enough memory"
                outcome.failures.append((image, " ".join(reason.split())))
                ledger.forget(image)
                continue
            outcome.n_done += 1
        _tables(out, names, ledger, outcome)
    return outcome


def _is_small(image: Path) -> bool:
    """Whether an image may be in memory beside another one."""
    try:
        shape = read.read_header(image).shape
    except (config_lib.UserError, OSError):
        return False  # a Zarr, or what its own turn will tell
    return math.prod(shape) <= _SMALL


class _Unusable(Exception):
    """The image cannot be segmented; its cause says why."""


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except write.WriteError:  # no other image can be written either
        raise
    except (config_lib.UserError, OSError, MemoryError) as error:
        raise _Unusable from error


@dataclasses.dataclass(frozen=True)
class _Map:
    """An image [H, W, C], what its file was like, and the network's map."""

    state: Sequence[int]
    pixels: np.ndarray
    probabilities: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Job:
    """One image to segment and what is to be written for it."""

    out: Path
    image: Path
    stem: str
    names: Sequence[str]
    settings: Mapping[str, Any]
    select: str

    def mapped(self, use: "predictor_lib.Predictor") -> _Map:
        """Reads the image, at once, and runs the network."""
        with _reading():
            state = ledger_lib.state(self.image)
            pixels = read.read_image(self.image, select=self.select)
            return _Map(state, pixels, use.probabilities(pixels))

    def do_image(
        self,
        use: "predictor_lib.Predictor",
        of: _Map,
        ledger: ledger_lib.Ledger,
    ) -> None:
        """Finds the objects of an image in memory; writes and notes them."""
        state, pixels = of.state, of.pixels
        with _reading():
            found = use.objects(pixels, of.probabilities, self.stem)
        source = os.path.relpath(self.image, self.out)
        found = dataclasses.replace(found, source=source)
        about = summary.of_image(
            found.labels.shape,
            found.table,
            lambda: summary.highest(found.probabilities),
        )
        if not any(form.uses_map for form in self._forms()):
            found = found.without_map()
        del of
        kept = {
            form.file(self.stem)
            for form in self._forms()
            if form.by_hand
            and not ledger.is_own(self.image, form.file(self.stem))
        }
        ledger.begin(self.image, self.stem)
        files = []
        for form in self._forms():
            files.append(form.file(self.stem))
            path = self.out / files[-1]
            if files[-1] in kept:
                _LOG.warning(
                    "%s is left as it is: it was made or changed by hand", path
                )
            elif form.part:
                write.write_json(path, form.part(pixels, found))
            else:
                form.write(path, pixels, found)
        self._note(ledger, state, files, found.table, about)

    def do_slide(
        self,
        use: "predictor_lib.Predictor",
        ledger: ledger_lib.Ledger,
        check: Callable[[], None],
    ) -> None:
        """By strips, from where an earlier run has come to."""
        from seg.predict import streaming

        for form in self._forms():  # hours before it would be written
            slide_write.check_place(self.out / form.file(self.stem, True))
        work = ledger.work(self.stem)
        with _reading():
            state = ledger_lib.state(self.image)
            found = streaming.segment(
                use,
                self.image,
                work,
                {**self.settings, "state": state, "source": str(self.image)},
                select=self.select,
                check=check,
            )
        ledger.begin(self.image, self.stem)
        rows = ({"image": self.stem, **row} for row in found.rows())
        formats.write_table(ledger.table(self.stem), rows)
        files = []
        for form in self._forms():
            if form.write_slide is None:
                _LOG.warning(
                    "%s: too large for %s",
                    self.image,
                    form.name.format(stem=self.stem),
                )
                continue
            check()
            files.append(form.file(self.stem, by_strips=True))
            form.write_slide(self.out / files[-1], found)
        about = summary.of_image(
            found.shape,
            found.rows(),
            lambda: max(map(summary.highest, found.probabilities())),
        )
        self._note(ledger, state, files, None, about)
        shutil.rmtree(work, ignore_errors=True)

    def _forms(self) -> Iterator[formats.Format]:
        forms = (formats.FORMATS[name] for name in self.names)
        return (form for form in forms if form.per_image)

    def _note(
        self,
        ledger: ledger_lib.Ledger,
        state: Sequence[int],
        files: Sequence[str],
        rows: Sequence[Mapping[str, Any]] | None,
        about: Mapping[str, Any],
    ) -> None:
        ledger.add(
            self.image, state, self.settings, self.stem, files, rows, about
        )


def _tables(
    out: Path, names: Iterable[str], ledger: ledger_lib.Ledger, outcome: Outcome
) -> None:
    """Writes what stands for all images together."""
    shared = [formats.FORMATS[name] for name in names]
    shared = [form for form in shared if form.is_shared]
    if shared and outcome.n_done + outcome.n_skipped:
        for form in shared:
            if form.part:
                made: Iterable[Any] = ledger.parts(form)
            else:
                made = ledger.images() if form.of_images else ledger.rows()
            form.write(out / form.name, made)
    write_failures(out, outcome.failures)


def write_failures(out: Path, failures: Iterable[tuple[Path, str]]) -> None:
    """Writes failures.csv; of no failures there is none."""
    failed = [
        {"image": _text(str(image)), "error": _text(reason)}
        for image, reason in failures
    ]
    if failed:
        formats.write_table(out / _FAILURES, failed, ("image", "error"))
    else:
        (out / _FAILURES).unlink(missing_ok=True)


def _text(name: str) -> str:
    """Without what is no Unicode, as a file's name may have it."""
    return name.encode(errors="replace").decode()
