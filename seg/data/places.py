"""Which folder holds the prepared records of a config, and one writer in it.

The folder `<data.dir>/<layout>/<digest>` is named by a digest over the raw
files and each knob that changes a record. The functions here know nothing of
how the records are stored.
"""

import contextlib
import hashlib
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from importlib import util
from typing import Any

from seg import config as config_lib
from seg import locks
from seg.data import labelme, split

# Knobs that change what a record holds or which split it is in. Others, like
# the tile, may change without preparing anew.
_KNOBS = (
    "model.in_channels",
    "data.layout",
    "data.overlaps",
    "data.split",
    "data.val_frac",
    "data.test_frac",
    "data.split_seed",
)
_TILES = ("data.tile", "data.overlap", "data.spacing")
_FOLDS = ("data.folds", "data.fold")
_FORMAT = 2  # of the prepared folder; part of the digest


def setup(
    config: config_lib.Config, exclude: list[str] | None = None
) -> dict[str, Any]:
    """The knobs that matter to the records, by path.

    exclude: the ids of data.exclude, where they are not what its file lists
    now.
    """
    flat = config_lib.to_flat(config)
    drawn = config.data.layout == "synthetic"
    found = {
        path: value
        for path, value in flat.items()
        if path in _KNOBS or (drawn and path.startswith("synthetic."))
    } | {"n_classes": len(config.classes)}
    if config.data.split == "tiles":  # every tile is a record
        found |= {path: flat[path] for path in _TILES}
    if config.data.exclude:
        if exclude is None:
            exclude = split.excluded(config.data.exclude)
        found["exclude"] = exclude
        if not config.data.exclude_groups:
            found["data.exclude_groups"] = False
    if config.data.rescale:
        found["data.rescale"] = config.data.rescale
    if config.data.folds:
        found |= {path: flat[path] for path in _FOLDS}
    if config.data.layout in ("labelme", "outlines"):  # which have names
        found |= {"names": labelme.classes_of(config)}
    return found


def same_setup(about: dict[str, Any], config: config_lib.Config) -> bool:
    """Whether a split.json is of these knobs and this raw path."""
    try:
        then = config_lib.from_json(json.dumps(about["config"]))
    except config_lib.ConfigError:  # made by a version with other knobs
        return False
    paths = [pathlib.Path(c.data.path).resolve() for c in (then, config)]
    before = setup(then, about.get("exclude", []))
    return before == setup(config) and paths[0] == paths[1]


def folder(config: config_lib.Config, source: str) -> pathlib.Path:
    """Where the records of this config and these raw files belong."""
    what = json.dumps([_FORMAT, source, setup(config)], sort_keys=True)
    digest = hashlib.sha256(what.encode()).hexdigest()[:16]
    return pathlib.Path(config.data.dir) / config.data.layout / digest


def check_archive(data: config_lib.Data) -> None:
    """Raises UserError for a zip whose sha256 is not data.sha256."""
    path = pathlib.Path(data.path)
    if not data.sha256 or not path.is_file():
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != data.sha256.lower():
        raise config_lib.UserError(
            f"{path}: sha256 is {found}, data.sha256 says {data.sha256}; "
            "download it again"
        )


@contextlib.contextmanager
def alone(root: pathlib.Path, progress: bool) -> Iterator[None]:
    """Holds the folder's lock, which a killed process gives up by itself."""
    line = f"waiting for another preparation in {root}"
    with contextlib.ExitStack() as stack:
        try:
            root.mkdir(parents=True, exist_ok=True)
            stack.enter_context(
                locks.held(root / ".lock", waiting=lambda: say(progress, line))
            )
        except OSError as error:
            raise config_lib.UserError(
                f"cannot write {root}: {error.strerror}; choose another "
                "data.dir"
            ) from error
        yield


@contextlib.contextmanager
def progress(
    total: int, shown: bool, what: str = "prepared", unit: str = "image"
) -> Iterator[Callable[[], None]]:
    """Yields what to call after each of `total` images.

    what: was done to them.
    """
    if shown and sys.stderr.isatty() and util.find_spec("tqdm"):
        import tqdm

        with tqdm.tqdm(total=total, desc=what, unit=unit) as bar:
            yield lambda: bar.update() and None
        return
    done, started = 0, time.monotonic()

    def advance() -> None:
        nonlocal done
        done += 1
        # ten lines, however many images
        if done * 10 // total > (done - 1) * 10 // total:
            seconds = time.monotonic() - started
            say(shown, f"{what} {done} of {total} {unit}s, {seconds:.0f} s")

    yield advance


def say(shown: bool, line: str) -> None:
    """Tells the user how far it is, on stderr."""
    if shown:
        print(line, file=sys.stderr, flush=True)
