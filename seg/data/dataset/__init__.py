"""Layouts -> prepared records on disk: a TFDS data set in ArrayRecord files.

`prepare` writes `<data.dir>/<layout>/<digest>/`, whole or not at all: the
records under `segmentation/<version>/` (any TFDS reader opens them with
`tfds.builder_from_directory`) and `split.json`, which lists ids, groups and
shapes by split, the overlaps that data.overlaps resolved, the digest of the
raw files and the config. The digest covers the raw files and each knob that
changes a record, so changed raw data are another folder and never meant
silently. `open` finds the folder again.

How the records are written is in `build`. TFDS writes and reads these files
without TensorFlow, which saves its import.
"""

import json
import logging
import os
import pathlib
import shutil
import threading
from typing import Any

import tensorflow_datasets as tfds

from seg import config as config_lib
from seg.data import layouts, places, records, split
from seg.data.dataset import build

_log = logging.getLogger(__name__)

_INDEX = "split.json"
_DAMAGED = "{} is damaged; delete it and run launch.prepare again"


class DefectsError(config_lib.UserError):
    """Raw files that cannot be prepared; `defects` has all of them."""

    def __init__(self, path: str, defects: list[layouts.Defect]):
        n = "1 defect" if len(defects) == 1 else f"{len(defects)} defects"
        super().__init__(f"{n} in {path}, as {defects[0]}")
        self.defects = defects


def prepare(
    config: config_lib.Config, progress: bool = True
) -> records.Records:
    """Prepares the records of a config, unless that is done already.

    Safe to kill and to run again; a second process waits for the first.

    Parameters
    ----------
    progress : show a bar on a terminal, else lines.

    Raises
    ------
    DefectsError : the raw files are not as the layout wants them.
    UserError : a group is in two splits, or data.dir cannot be written.
    """
    places.check_archive(config.data)
    stamp = layouts.source_stamp(config)
    source = layouts.source_digest(config, progress)
    folder = places.folder(config, source)
    if (folder / _INDEX).is_file():
        return _finished(folder, config, progress, "already prepared")
    if defects := layouts.verify(config, progress):
        raise DefectsError(config.data.path, defects)
    with places.alone(folder.parent, progress):
        if not (folder / _INDEX).is_file():
            _build(config, source, stamp, folder, progress)
    return _finished(folder, config, progress, "prepared")


def _finished(
    folder: pathlib.Path, config: config_lib.Config, progress: bool, what: str
) -> records.Records:
    """Opens the folder, and says what there is to know of it."""
    places.say(progress, f"{what} in {folder}")
    overlaps = _index(folder).get("overlaps")  # older ones did not count them
    if overlaps and overlaps["images"]:
        places.say(
            progress,
            "masks of objects overlapped in {px} px of {images} images, "
            "resolved by data.overlaps={policy}".format(
                **overlaps, policy=config.data.overlaps
            ),
        )
    return _open(folder, config)


def open(config: config_lib.Config) -> records.Records:
    """The prepared records of a config.

    Raises UserError where they are not prepared, or the raw files have changed
    since. Raw files that are gone (a copy of data.dir alone) are no change.
    """
    root = pathlib.Path(config.data.dir) / config.data.layout
    before = {
        path.parent: about
        for path in sorted(root.glob(f"*/{_INDEX}"))
        if places.same_setup(about := _index(path.parent), config)
    }
    raw = config.data.path
    if raw and not pathlib.Path(raw).exists() and len(before) == 1:
        return _open(*before, config)
    stamp = layouts.source_stamp(config)
    for folder, about in before.items():
        if about.get("stamp") == stamp:  # spares reading every raw file
            return _open(folder, config)
    folder = places.folder(config, layouts.source_digest(config))
    if (folder / _INDEX).is_file():
        return _open(folder, config)
    what = "has changed since it was prepared" if before else "is not prepared"
    raise config_lib.UserError(
        f"data.layout={config.data.layout} data.path={raw} {what} (nothing at "
        f"{folder}); run python -m launch.prepare with the same flags"
    )


def _build(
    config: config_lib.Config,
    source: str,
    stamp: str,
    folder: pathlib.Path,
    progress: bool,
) -> None:
    samples = layouts.scan(config, progress)
    for left in folder.parent.glob(".*.partial"):  # by a killed preparation
        shutil.rmtree(left)
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        index, overlaps = build.write(config, samples, partial, progress)
        about = {
            "digest": folder.name,
            "source": source,
            "stamp": stamp,
            "splits": index,
            "overlaps": overlaps,
            "exclude": split.excluded(config.data.exclude),
            "config": records.stored(config),
        }
        (partial / _INDEX).write_text(json.dumps(about, indent=1))
        os.replace(partial, folder)
    except (OSError, RuntimeError) as error:
        # ArrayRecord's own words for a disk that refuses
        if isinstance(error, RuntimeError) and "write() failed" not in str(
            error
        ):
            raise
        raise config_lib.UserError(
            f"cannot write {folder}: {error}; free some space, or choose "
            "another data.dir"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _index(folder: pathlib.Path) -> dict[str, Any]:
    """What split.json says. Raises UserError where it is damaged."""
    try:
        about = json.loads((folder / _INDEX).read_text())
        about["splits"], about["digest"], about["config"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise config_lib.UserError(
            f"{_DAMAGED.format(folder)} ({_INDEX}: {error})"
        ) from error
    return about


def _open(folder: pathlib.Path, config: config_lib.Config) -> records.Records:
    if config.data.split in split.LEAKS:
        _log.warning(split.LEAKS[config.data.split])
    about = _index(folder)
    index = about["splits"]
    version = folder / build.Segmentation.name / str(build.Segmentation.VERSION)
    damaged = _DAMAGED.format(folder)
    try:
        builder = tfds.builder_from_directory(os.fspath(version))
        sources = {
            name: builder.as_data_source(split=name)
            for name, members in index.items()
            if members
        }
    except (OSError, ValueError, KeyError) as error:
        raise config_lib.UserError(f"{damaged} ({error})") from error
    lock = threading.Lock()  # ArrayRecord's readers do not promise threads

    def read_one(name: str, i: int) -> records.Record:
        try:
            with lock:
                record = dict(sources[name][i])
        except (OSError, ValueError, RuntimeError, IndexError) as error:
            raise config_lib.UserError(
                f"record {i} of {name}: {damaged} ({error})"
            ) from error
        for key in ("id", "group"):
            record[key] = record[key].decode()
        if record["labels"].shape == (0, 0):
            record["labels"] = None
        return record

    return records.Records(
        index, about["digest"], read_one, config.data.cache_mib, config
    )
