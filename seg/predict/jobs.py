"""One image of many: read, given to the network, measured, written, noted.

First its results, each whole, then its record in the `ledger`.
"""

import contextlib
import dataclasses
import logging
import math
import os
import pathlib
import shutil
import typing
from collections.abc import (
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Any

import numpy as np

from seg import config as config_lib
from seg import images as images_lib
from seg.images import about as about_lib
from seg.images import formats, slide, slide_write, write
from seg.predict import ledger as ledger_lib
from seg.predict import physical, summary

if typing.TYPE_CHECKING:  # it brings JAX, which a finished folder never needs
    from seg.predict import predictor as predictor_lib

_LOG = logging.getLogger(__name__)
_SMALL = 2**24  # pixels


class Unusable(Exception):
    """The image cannot be segmented; its cause says why."""


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except write.WriteError:  # no other image can be written either
        raise
    except (config_lib.UserError, OSError, MemoryError) as error:
        raise Unusable from error


@dataclasses.dataclass(frozen=True)
class Map:
    """An image [H, W, C], what its file was like, and the network's map."""

    state: Sequence[int]
    pixels: np.ndarray
    probabilities: np.ndarray


@dataclasses.dataclass(frozen=True)
class Job:
    """One image to segment and what is to be written for it."""

    out: pathlib.Path
    item: ledger_lib.Item
    stem: str
    names: Sequence[str]
    settings: Mapping[str, Any]
    about: about_lib.About | None

    @property
    def by_strips(self) -> bool:
        """Whether the image is too large to be worked on at once."""
        if self.about is None:
            return slide.is_slide(self.item.path)
        return self.about.by_strips

    @property
    def is_small(self) -> bool:
        """Whether the image may be in memory beside another one."""
        if self.about is None:  # its own turn will tell
            return False
        return not self.by_strips and math.prod(self.about.shape) <= _SMALL

    def reason(self, error: Unusable) -> str:
        """Why the image failed, in one line, with the plane."""
        text = " ".join((str(error.__cause__) or "not enough memory").split())
        path, plane, select = self.item
        if isinstance(error.__cause__, images_lib.ChannelError):
            names = self.about.channels if self.about else ()
            if names:
                numbered = ", ".join(f"{i} {n}" for i, n in enumerate(names))
                text += f"; its channels: {numbered}"
        elif plane:
            text = f"{path}: {select}: {text.removeprefix(f'{path}: ')}"
        return text

    def in_the_way(
        self, ledger: ledger_lib.Ledger, overwrite: bool
    ) -> list[pathlib.Path]:
        """What results would replace that is not this program's.

        Files that people are meant to change are left out, as those stay.
        With `overwrite` there is nothing. Raises UserError for an image under
        the name of a result, which is never replaced.
        """
        found = []
        for form in self._forms():
            name = form.file(self.stem, self.by_strips)
            if name.endswith(".zarr"):
                slide_write.check_place(self.out / name)
            if form.part or form.by_hand or overwrite:
                continue
            if not ledger.is_own(self.item, name):
                found.append(self.out / name)
        return found

    def pixel_size(
        self, use: "predictor_lib.Predictor"
    ) -> tuple[float, float] | None:
        """(row, column) in micrometres; None = nobody says it."""
        return use.pixel_size(self.about.pixel_size if self.about else None)

    def mapped(
        self, use: "predictor_lib.Predictor", ledger: ledger_lib.Ledger
    ) -> Map:
        """Reads the image, at once, and runs the network."""
        with _reading():
            state = ledger.state(self.item.path)
            pixels = slide.read_image(self.item.path, select=self.item.select)
            size = self.pixel_size(use)
            return Map(state, pixels, use.probabilities(pixels, None, size))

    def do_image(
        self,
        use: "predictor_lib.Predictor",
        of: Map,
        ledger: ledger_lib.Ledger,
    ) -> None:
        """Finds the objects of an image in memory; writes and notes them."""
        state, pixels = of.state, of.pixels
        with _reading():
            found = use.objects(pixels, of.probabilities, self.stem)
            found = found.measured(self.pixel_size(use))
        if not self.item.plane:  # which is no file
            source = os.path.relpath(self.item.path, self.out)
            found = dataclasses.replace(found, source=source)
        about = summary.of_image(
            found.labels.shape,
            found.table,
            lambda: summary.highest(found.probabilities),
            found.pixel_size,
        )
        if not any(form.uses_map for form in self._forms()):
            found = found.without_map()
        del of
        files = [form.file(self.stem) for form in self._forms()]
        kept = {
            name
            for name, form in zip(files, self._forms(), strict=True)
            if form.by_hand and not ledger.is_own(self.item, name)
        }
        own = [name for name in files if name not in kept]
        ledger.begin(self.item, self.stem, own)
        for name, form in zip(files, self._forms(), strict=True):
            path = self.out / name
            if name in kept:
                _LOG.warning(
                    "%s is left as it is: it was made or changed by hand", path
                )
            elif form.part:
                write.write_json(path, form.part(pixels, found))
            else:
                form.write(path, pixels, found)
        self._note(ledger, state, files, found.table, about, kept)

    def do_slide(
        self,
        use: "predictor_lib.Predictor",
        ledger: ledger_lib.Ledger,
        check: Callable[[], None],
    ) -> None:
        """By strips, from where an earlier run has come to."""
        from seg.predict import streaming

        for name in self.names:
            form = formats.FORMATS[name]
            if form.per_image and form.write_slide is None:
                _LOG.warning(
                    "%s: too large for %s",
                    self.item.path,
                    form.name.format(stem=self.stem),
                )
        work = ledger.work(self.stem)
        with _reading():
            state = ledger.state(self.item.path)
            found = streaming.segment(
                use,
                self.item.path,
                work,
                {
                    **self.settings,
                    "state": state,
                    "source": str(self.item.path),
                },
                select=self.item.select,
                pixel_size=self.pixel_size(use),
                check=check,
            )
        files = [form.file(self.stem, by_strips=True) for form in self._forms()]
        ledger.begin(self.item, self.stem, files)
        rows = (
            physical.measured({"image": self.stem, **row}, found.pixel_size)
            if found.pixel_size
            else {"image": self.stem, **row}
            for row in found.rows()
        )
        formats.write_table(ledger.table(self.stem), rows)
        for name, form in zip(files, self._forms(), strict=True):
            check()
            form.write_slide(self.out / name, found)
        about = summary.of_image(
            found.shape,
            found.rows(),
            lambda: max(map(summary.highest, found.probabilities())),
            found.pixel_size,
        )
        self._note(ledger, state, files, None, about)
        shutil.rmtree(work, ignore_errors=True)

    def _forms(self) -> Iterator[formats.Format]:
        """The formats with a file for this image."""
        for name in self.names:
            form = formats.FORMATS[name]
            if form.per_image and (form.write_slide or not self.by_strips):
                yield form

    def _note(
        self,
        ledger: ledger_lib.Ledger,
        state: Sequence[int],
        files: Sequence[str],
        rows: Sequence[Mapping[str, Any]] | None,
        about: Mapping[str, Any],
        kept: Collection[str] = (),
    ) -> None:
        ledger.add(
            self.item, state, self.settings, self.stem, files, rows, about, kept
        )
