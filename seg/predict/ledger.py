"""What was made from which image: the records of a folder of results.

`OUT/.seg/<name>.json` says for one image from which file, in which state, with
which settings its results were made, which files they are and which objects
they hold; for a slide, which may hold a million, `<name>.csv` beside it does.
It also keeps in which state each file was left that was ever made for it, and
`shared` does so for the tables: what is in another state is somebody else's.
`<name>.work/` is what a slide has come to so far. Results are named after the
image's stem; where stems are equal, by folder or suffix too; a plane of a stack
adds its own, as `_t000_z003`. An image keeps its name as long as it has a
record.
"""

import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import re
import shutil
from collections.abc import (
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Any, NamedTuple

from seg import config as config_lib
from seg import locks
from seg.images import formats, write

Path = pathlib.Path

_FOLDER, _LOCK, _SHARED = ".seg", "lock", "shared"
_KEYS = {"source", "state", "settings", "stem", "files", "rows", "image"}
# File systems allow 255 bytes, of which a suffix takes some.
_LONGEST = 180
# As `write.whole` names them.
_UNFINISHED = re.compile(r"\.[0-9a-f]{12}(\.\w+)?")


class Item(NamedTuple):
    """One image: a file, or a plane of a stack.

    plane: its label in names, "" for all there is; select: how it is chosen,
    see `seg.images.axes`.
    """

    path: Path
    plane: str = ""
    select: str = ""


@contextlib.contextmanager
def held(out: Path) -> Iterator["Ledger"]:
    """The ledger of the folder `out`, made if need be, for this process alone.

    A folder that was made for nothing goes again. Raises UserError where it
    cannot be made, or is in use.
    """
    folder = out / _FOLDER
    is_new = not out.exists()
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locks.held(folder / _LOCK, wait=False))
        except OSError as error:
            raise config_lib.UserError(
                f"--out={out}: {error.strerror}; choose another folder"
            ) from error
        except locks.BusyError as error:
            raise config_lib.UserError(
                f"--out={out}: in use by process {error}; wait for it to end "
                "or choose another folder"
            ) from error
        for place in (out, folder):
            _sweep(place)
        if is_new:
            stack.callback(_remove_empty, out)
        yield Ledger(out)


def holds_record(folder: Path, name: str = "") -> bool:
    """Whether a folder holds results, or those of an image of this name."""
    kept = folder / _FOLDER
    return (kept / f"{name}.json").is_file() if name else kept.is_dir()


def _remove_empty(out: Path) -> None:
    """Removes a folder of results in which there are none."""
    with contextlib.suppress(OSError):  # somebody has removed it
        found = os.listdir(out), os.listdir(out / _FOLDER)
        if found == ([_FOLDER], [_LOCK]):
            shutil.rmtree(out)


def _sweep(folder: Path) -> None:
    """Removes what a killed process was writing there."""
    for path in folder.iterdir():
        if _UNFINISHED.fullmatch(path.name):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


class Ledger:
    """The records of the folder `out`; only `held` makes one."""

    def __init__(self, out: Path):
        self.out = out
        self.folder = out / _FOLDER
        self._records: dict[tuple[str, str], dict[str, Any]] = {}
        for path in sorted(self.folder.glob("*.json")):
            record = _read(path)
            if record is not None:
                self._records[record["source"], record["plane"]] = record
        self._shared = _read_states(self.folder / _SHARED)
        self._states: dict[Path, list[int]] = {}
        self._bases: dict[Path, str] = {}
        self._stems: dict[Item, str] = {}
        self._taken: set[str] = set()

    def _of(self, item: Item) -> dict[str, Any] | None:
        return self._records.get((str(item.path), item.plane))

    def state(self, path: Path) -> list[int]:
        """Size and time of a file or folder, as they were at the first look.

        Whoever changes it later makes its records outdated. A Zarr of many
        planes is not gone through again for each of them.
        """
        if path not in self._states:
            self._states[path] = _state(path)
        return self._states[path]

    def holds(
        self, item: Item, settings: Mapping[str, Any], names: Iterable[str]
    ) -> bool:
        """Whether the results of this image are there and up to date."""
        record = self._of(item)
        try:
            now = self.state(item.path)
        except OSError:  # whoever reads it will say so
            return False
        if record is None:
            return False
        by_strips = record["rows"] is None
        forms = [formats.FORMATS[name] for name in names]
        wanted = [
            form.file(record["stem"], by_strips)
            for form in forms
            if form.per_image and (form.write_slide or not by_strips)
        ]
        return (
            record["state"] == now
            and record["settings"] == json.loads(json.dumps(settings))
            and set(wanted) <= set(record["files"])
            and self._complete(record)
        )

    def _complete(self, record: Mapping[str, Any]) -> bool:
        table = self.table(record["stem"])
        if record["rows"] is None and not (
            table.is_file() and table.stat().st_size
        ):
            return False
        return all((self.out / name).exists() for name in record["files"])

    def add(
        self,
        item: Item,
        found: Sequence[int],
        settings: Mapping[str, Any],
        stem: str,
        files: Sequence[str],
        rows: Sequence[Mapping[str, Any]] | None,
        about: Mapping[str, Any],
        kept: Collection[str] = (),
    ) -> None:
        """Notes that an image, `found` in that state, is finished.

        rows None: they are in the file `table(stem)`. about: the row of the
        image itself, see `summary`. kept: those of the files that are by hand.
        """
        own = [name for name in files if name not in kept]
        made = {name: _state(self.out / name) for name in own}
        told = {
            "state": list(found),
            "settings": dict(settings),
            "files": list(files),
            "rows": None if rows is None else list(rows),
            "image": dict(about),
        }
        self._note(item, stem, made, told)

    def _note(
        self,
        item: Item,
        stem: str,
        made: Mapping[str, Sequence[int]],
        told: Mapping[str, Any],
    ) -> None:
        """Writes a record, `told` in it.

        made: file -> state, beside those known before.
        """
        record = {
            "source": str(item.path),
            "plane": item.plane,
            "base": self._bases.get(item.path, stem),
            "stem": stem,
            "made": {**(self._of(item) or {}).get("made", {}), **made},
            **told,
        }
        # NumPy's numbers become plain ones.
        text = json.dumps(record, default=lambda value: value.item())
        with write.whole(self.folder / f"{stem}.json") as temporary:
            temporary.write_text(text, encoding="utf-8")
        self._records[str(item.path), item.plane] = json.loads(text)

    def begin(self, item: Item, stem: str, files: Iterable[str] = ()) -> None:
        """Notes which files of an image are about to be written.

        Until `add` they are this program's, whatever they hold, and nobody's
        results; the name stays the image's.
        """
        nothing = {
            "state": [], "settings": {}, "files": [], "rows": [], "image": {},
        }  # fmt: skip
        self._note(item, stem, _begun(files), nothing)

    def is_own(self, item: Item | None, name: str) -> bool:
        """Whether a file is absent, or as this program has left it.

        item: whose it is; None = it is of all images.
        """
        path = self.out / name
        if not path.exists():
            return True
        now = _state(path)
        if item is None:
            return self._shared.get(name) in ([], now)
        if record := self._of(item):
            return record["made"].get(name) in ([], now)
        damaged = self.folder / f"{self.stem(item)}.json"
        return damaged.exists() and now[1] <= damaged.stat().st_mtime_ns

    @contextlib.contextmanager
    def sharing(self, names: Sequence[str]) -> Iterator[None]:
        """Notes that files of all images are written in this block."""
        self._share(_begun(names))
        yield
        there = [name for name in names if (self.out / name).exists()]
        self._share({name: _state(self.out / name) for name in there})

    def _share(self, states: Mapping[str, list[int]]) -> None:
        if states:
            self._shared |= states
            write.write_json(self.folder / _SHARED, self._shared)

    def forget(self, item: Item) -> None:
        """Notes that what lies there is not from an image any more."""
        if record := self._of(item):
            self.begin(item, record["stem"])
            self.table(record["stem"]).unlink(missing_ok=True)

    def settle(self, path: Path, planes: Iterable[str]) -> None:
        """Drops what is left of planes that a changed file has no more."""
        gone = {plane for source, plane in self._records if source == str(path)}
        for plane in gone - set(planes):
            record = self._records[str(path), plane]
            if record["settings"] and record["state"] != self.state(path):
                self.forget(Item(path, plane))

    def table(self, stem: str) -> Path:
        """Where the rows of a slide are."""
        return self.folder / f"{stem}.csv"

    def work(self, stem: str) -> Path:
        """The folder for what is unfinished of a slide."""
        return self.folder / f"{stem}.work"

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of the objects of all images that are done, by name.

        With the same keys all of them, those of images in colour, too.
        """
        empty: dict[str, None] = {}
        for record in self._done():
            empty |= dict.fromkeys(next(self._rows(record), ()))
        for record in self._done():
            for row in self._rows(record):
                yield {**empty, **row}

    def _rows(self, record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        if record["rows"] is None:
            return formats.iter_table(self.table(record["stem"]))
        return iter(record["rows"])

    def images(self) -> list[dict[str, Any]]:
        """A row for each image that is done, the most doubtful first."""
        rows = [{"image": r["stem"], **r["image"]} for r in self._done()]
        return sorted(rows, key=lambda row: -row["doubt"])

    def parts(self, form: formats.Format) -> Iterator[tuple[str, Any]]:
        """(name, part of the shared file) of all images that have one."""
        for record in self._done():
            name = form.file(record["stem"])
            if name in record["files"]:
                text = (self.out / name).read_text(encoding="utf-8")
                yield record["stem"], json.loads(text)

    def _done(self) -> Iterator[dict[str, Any]]:
        """The records of the images whose results are there, by name."""
        for record in sorted(
            self._records.values(), key=lambda record: record["stem"]
        ):
            # one without has begun, and no more
            if record["settings"] and self._complete(record):
                yield record

    def name(self, images: Sequence[Path]) -> None:
        """Gives each file a name of its own; one with a record keeps it.

        To be called before `stem`.
        """
        known = {
            record["source"]: record["base"]
            for record in self._records.values()
        }
        chosen = {
            image: known[str(image)] for image in images if str(image) in known
        }
        # Some file systems take "A" and "a" for one name.
        self._taken = {
            record[key].lower()
            for record in self._records.values()
            for key in ("stem", "base")
        }
        equal: dict[str, list[Path]] = {}
        for image in images:
            equal.setdefault(image.stem.lower(), []).append(image)
        for image in images:
            if image not in chosen:
                others = [o for o in equal[image.stem.lower()] if o != image]
                chosen[image] = self._free(_candidates(image, others))
        self._bases = chosen

    def stem(self, item: Item) -> str:
        """The name of the results of an image; with a record, it keeps it."""
        base = self._bases[item.path]
        if record := self._of(item):
            return record["stem"]
        if not item.plane:
            return base
        if item not in self._stems:
            name = f"{base}_{item.plane}"
            more = (f"{name}_{n}" for n in itertools.count(2))
            self._stems[item] = self._free(itertools.chain([name], more))
        return self._stems[item]

    def _free(self, names: Iterable[str]) -> str:
        """The first name that no other image has; it is taken then."""
        name = next(n for n in names if n.lower() not in self._taken)
        self._taken.add(name.lower())
        return name


def _candidates(image: Path, others: Sequence[Path]) -> Iterator[str]:
    """Names for an image whose stem these others have too, best first."""
    name = _short(image.stem)
    beside = [other for other in others if other.parent == image.parent]
    if beside:
        name += "_" + image.suffix[1:]
    if len(beside) == len(others):
        yield name
    for folder in image.parents:
        name = _short(f"{folder.name}_{name}" if folder.name else name)
        yield name
    for number in itertools.count(2):
        yield f"{name}_{number}"


def _short(name: str) -> str:
    # A name on disk need not be Unicode; in a table it must be.
    raw = name.encode(errors="replace")
    if len(raw) <= _LONGEST:
        return raw.decode()
    digest = hashlib.sha256(raw).hexdigest()[:8]
    return raw[: _LONGEST - 9].decode(errors="ignore") + "_" + digest


def _state(image: Path) -> list[int]:
    """Size and time of a file or folder: whether it is still the same."""
    files = [image]
    if image.is_dir():
        files = [
            pathlib.Path(folder, name)
            for folder, _, names in os.walk(image)
            for name in names
        ]
    found = [os.stat(file) for file in files]
    return [
        sum(status.st_size for status in found),
        max((status.st_mtime_ns for status in found), default=0),
    ]


def _read(path: Path) -> dict[str, Any] | None:
    """A record, or None for one that is damaged: its image is done again."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        keys = record.keys()
    except (OSError, ValueError, AttributeError):
        return None
    if not keys >= _KEYS:
        return None
    # older ones know nothing of planes, nor of what was made
    return {"plane": "", "base": record["stem"], "made": {}, **record}


def _begun(files: Iterable[str]) -> dict[str, list[int]]:
    """The state of files that are being written: any will do."""
    return {name: [] for name in files}


def _read_states(path: Path) -> dict[str, list[int]]:
    """File -> state; of a damaged note, nothing."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
