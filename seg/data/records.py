"""Labelled whole images, read by position, a bounded number kept in memory.

A record is a dict: `image` [H, W, C] in its stored dtype, `stats` float32
[C, S] of `normalize.measure`, `classes` uint8 [H, W] (255 = not annotated),
`labels` int32 [H, W] or None (the data set has no objects), `id`, `group`.
Its arrays are read-only, since they are shared.

`Records` does not know where they lie: `seg.data.dataset` reads prepared
TFDS files; `open_pack` reads one npz file, without TensorFlow, the same bits.
"""

import collections
import contextlib
import dataclasses
import json
import pathlib
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from seg import config as config_lib
from seg import normalize
from seg.data import targets

SPLITS = ("train", "val", "test")
_FORMAT = 2  # of the pack
_ARRAYS = ("image", "stats", "classes", "labels")

Record = dict[str, Any]


class Records:
    """Records of the three splits.

    Parameters
    ----------
    index : for each split, a list of entries `id`, `group`, `shape` (H, W).
    digest : names the prepared data; equal digests mean equal records.
    read : (split, i) -> record, from wherever it lies; any thread calls it.
    cache_mib : memory for records and what is derived from them, MiB.
    config : the configuration that the records were prepared with.
    """

    def __init__(
        self,
        index: Mapping[str, list[Mapping[str, Any]]],
        digest: str,
        read: Callable[[str, int], Record],
        cache_mib: int,
        config: config_lib.Config,
    ):
        self.index = {split: list(index.get(split, ())) for split in SPLITS}
        self.digest = digest
        self.config = config
        self._read = read
        self._limit = cache_mib * 2**20
        self._kept: collections.OrderedDict[Any, tuple[Record, int]]
        self._kept = collections.OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    @property
    def splits(self) -> dict[str, list[str]]:
        """The ids of each split, in the order of their positions."""
        return {
            split: [entry["id"] for entry in entries]
            for split, entries in self.index.items()
        }

    def n(self, split: str) -> int:
        """How many records the split has."""
        return len(self.index[split])

    def shapes(self, split: str) -> np.ndarray:
        """(H, W) of each record: int64 [n, 2], without reading any."""
        shapes = [entry["shape"] for entry in self.index[split]]
        return np.array(shapes, np.int64).reshape(-1, 2)

    def get(self, split: str, i: int) -> Record:
        """The record at this position of its split."""
        return self.cached((split, i), lambda: self.read(split, i))

    def read(self, split: str, i: int) -> Record:
        """The record at this position, past the cache.

        Statistics that an earlier version has left out are measured.
        """
        record = self._read(split, i)
        wanted = self.index[split][i]["id"]
        if record["id"] != wanted:
            raise config_lib.UserError(
                f"record {i} of {split} is {record['id']!r}, not {wanted!r}: "
                "the prepared data are mixed up; delete them and prepare again"
            )
        stats = normalize.completed(record["stats"], record["image"])
        return {**record, "stats": stats}

    def cached(self, key: Any, make: Callable[[], Record]) -> Record:
        """What `make` returns, kept by key until memory is needed.

        The least recently used go first. Two threads that miss at once both
        make it; the results are equal, so either may stay.
        """
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
        made = make()
        arrays = [v for v in made.values() if isinstance(v, np.ndarray)]
        for array in arrays:
            array.flags.writeable = False
        size = sum(array.nbytes for array in arrays)
        with self._lock:
            if key not in self._kept and size <= self._limit:
                self._kept[key] = made, size
                self._size += size
            while self._size > self._limit:
                _, (_, freed) = self._kept.popitem(last=False)
                self._size -= freed
        return made

    @property
    def cached_bytes(self) -> int:
        """Memory that the cache holds now."""
        return self._size


def with_intensities(
    config: config_lib.Config, records: Records
) -> config_lib.Config:
    """The config with data.mean and data.std, if its scaling needs them.

    They are those of all pixels of the training images, which are read once.
    """

    def images() -> Iterator[tuple[int, np.ndarray]]:
        for i in range(records.n("train")):
            record = records.read("train", i)
            yield record["classes"].size, record["stats"]

    data = normalize.pooled(images(), config.data)
    return dataclasses.replace(config, data=data)


def with_diameter(
    config: config_lib.Config, records: Records
) -> config_lib.Config:
    """The config with data.diameter, if its network learns objects.

    It is the median over the training images of `targets.diameter` of each.
    """
    if config.data.diameter or config.model.objects == "none":
        return config
    found = []
    for i in range(records.n("train")):
        labels = records.read("train", i)["labels"]
        if labels is not None:
            areas = np.bincount(labels.ravel())[1:]
            found.append(targets.diameter(areas))
    found = [diameter for diameter in found if diameter > 0]
    if not found:
        return config
    # so many digits as are worth reading
    return config_lib.replace(
        config, {"data.diameter": round(float(np.median(found)), 2)}
    )


def stored(config: config_lib.Config) -> dict[str, Any]:
    """The config as it is kept beside records, in JSON's types.

    Without track.uri, which may hold a password: records are copied and
    shared, and have no use for it.
    """
    shared = config_lib.replace(config, {"track.uri": ""})
    return json.loads(config_lib.to_json(shared))


def pack(
    records: Records,
    config: config_lib.Config,
    path: str | pathlib.Path,
    splits: Iterable[str] = ("train", "val"),
) -> None:
    """Writes whole records of these splits into one npz file.

    Images are written one at a time, so memory does not grow with the data.
    """
    from seg.images import write

    splits = tuple(splits)
    about = {
        "format": _FORMAT,
        "digest": records.digest,
        "index": {split: records.index[split] for split in splits},
        "config": stored(config),
    }
    with (
        write.whole(pathlib.Path(path)) as temporary,
        zipfile.ZipFile(
            temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1
        ) as archive,
    ):
        for split in splits:
            for i in range(records.n(split)):
                record = records.read(split, i)
                for name in _ARRAYS:
                    if record[name] is not None:
                        _put(archive, f"{split}/{i}/{name}", record[name])
        text = json.dumps(about).encode()
        _put(archive, "about", np.frombuffer(text, np.uint8))


def _put(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    # a fixed date: the same records give the same file
    info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
    info.compress_type = archive.compression
    with archive.open(info, "w", force_zip64=True) as member:
        np.lib.format.write_array(member, array, allow_pickle=False)


def _take(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def open_pack(path: str | pathlib.Path, cache_mib: int = 512) -> Records:
    """The records of a pack, read when they are wanted.

    Raises UserError where the file is missing, no pack, or damaged.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise config_lib.UserError(
            f"no pack at {path}; make it with launch.prepare --pack={path}"
        )
    with _sound(path):
        archive = zipfile.ZipFile(path)  # np.load leaks it where it fails
        about = json.loads(_take(archive, "about").tobytes())
        if about["format"] != _FORMAT:
            raise config_lib.UserError(
                f"{path}: pack of format {about['format']}, this version "
                f"reads {_FORMAT}; make it again with launch.prepare --pack"
            )
        index, digest = about["index"], about["digest"]
    packed_with = config_lib.from_json(json.dumps(about["config"]))

    def read(split: str, i: int) -> Record:
        entry = index[split][i]
        record = {"id": entry["id"], "group": entry["group"]}
        with _sound(path):
            for name in _ARRAYS:
                member = f"{split}/{i}/{name}"
                held = f"{member}.npy" in archive.NameToInfo
                record[name] = _take(archive, member) if held else None
        return record

    return Records(index, digest, read, cache_mib, packed_with)


@contextlib.contextmanager
def _sound(path: pathlib.Path):
    try:
        yield
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        KeyError,
        OSError,
        ValueError,
    ) as error:
        if isinstance(error, config_lib.UserError):
            raise
        raise config_lib.UserError(
            f"{path} is no pack, or damaged ({error}); make it again with "
            "launch.prepare --pack"
        ) from error
