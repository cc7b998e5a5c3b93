"""Records -> tiles -> batches, each batch a function of (seed, step) alone.

An epoch visits every tile of the table once (or, with `data.per_image`, so
many of each image at most, drawn anew), in the order of a permutation drawn
from (seed, epoch); step s takes its slice of that order and needs
nothing of the steps before it. So a run resumes at any step, on any number of
processes, with the same batches. `batch_at` is the definition; `batches` runs
it in tf.data and `plain_batches` in a thread: the same bits.

A batch is a dict of numpy arrays: `image` [B, H, W, C] in the stored dtype,
`classes` uint8 [B, H, W] (training targets, `data.gap` applied; 255 = not
annotated), `labels` int32 [B, H, W] (-1 = beyond the image), `stats` float32
[B, C, S] of the whole images, `weight` float32 [B] (0 = padding of an epoch's
last batch) and `ids` str [B] as "id@row,col".
"""

import contextlib
import functools
import os
import queue
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import ndimage

from seg import config as config_lib
from seg import tiles
from seg.data import records as records_lib
from seg.data import targets
from seg.images import formats, resize

Batch = dict[str, np.ndarray]

_AHEAD = 2  # batches made before they are asked for
_RICH = 1  # tells the rng of object-rich crops from that of the order


def tile_table(shapes: np.ndarray, data: config_lib.Data) -> np.ndarray:
    """Every tile of these images: int64 [T, 3] of (image, row, column)."""
    tables = [np.zeros((0, 3), np.int64)]
    if data.resize:
        shapes = np.full_like(shapes, data.resize)
    for i, shape in enumerate(shapes):
        corners = tiles.windows(
            tuple(shape), data.tile, data.overlap, data.spacing
        )
        tables.append(np.insert(corners, 0, i, axis=1))
    return np.concatenate(tables)


def steps_per_epoch(
    records: records_lib.Records, config: config_lib.Config
) -> int:
    """Steps that visit every tile once; the last batch may be padded."""
    n_tiles = _n_visited(_table(records, config.data), config.data)
    return -(-n_tiles // config.train.batch_size)


def total_steps(records: records_lib.Records, config: config_lib.Config) -> int:
    """Steps of the whole training: train.steps, or else train.epochs."""
    if config.train.steps:
        return config.train.steps
    return config.train.epochs * steps_per_epoch(records, config)


def batch_at(
    records: records_lib.Records,
    config: config_lib.Config,
    step: int,
    process: tuple[int, int] = (0, 1),
) -> Batch:
    """This process's share of the batch of a step.

    Parameters
    ----------
    process : (index, count) of the processes; each takes an equal, contiguous
        slice of the global batch.

    Raises
    ------
    UserError : train.batch_size cannot be divided by the count.
    """
    size = config.train.batch_size
    index, count = process
    if size % count:
        raise config_lib.ConfigError(
            f"train.batch_size={size} cannot be divided over {count} "
            f"processes; choose a multiple of {count}"
        )
    table = _table(records, config.data)
    n_tiles = _n_visited(table, config.data)
    epoch, place = divmod(step, -(-n_tiles // size))
    order = _order(
        config.train.seed, epoch, table[:, 0].tobytes(), config.data.per_image
    )
    share = size // count
    first = place * size + index * share
    # Padding repeats real tiles at weight 0: blank ones would bend the
    # statistics of batch normalisation.
    rows = [
        _tile(records, config, table[order[at % n_tiles]], epoch, at, n_tiles)
        for at in range(first, first + share)
    ]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _table(records: records_lib.Records, data: config_lib.Data) -> np.ndarray:
    """The tiles of an epoch: int64 [T, 3] as `tile_table` has them.

    Copies of an image, of which hard ones have more, are numbered as if they
    were images of their own, n_images further on.
    """

    def make() -> records_lib.Record:
        table = tile_table(records.shapes("train"), data)
        if data.hard:
            n = _copies(data.hard, records.splits["train"])
            parts = [
                table[n[table[:, 0]] > copy] + (copy * len(n), 0, 0)
                for copy in range(n.max(initial=0))
            ]
            table = np.concatenate(parts)
        return {"table": table}

    key = (
        "tiles", data.tile, data.overlap, data.spacing, data.resize, data.hard
    )  # fmt: skip
    table = records.cached(key, make)["table"]
    if not len(table):
        raise config_lib.UserError(
            "no training images; lower data.val_frac and data.test_frac"
        )
    return table


def _copies(path: str, ids: list[str]) -> np.ndarray:
    """How often each image is seen in an epoch, by its score: int [n]."""
    rows = {row["image"]: row for row in formats.read_table(path)}
    scores = []
    for name in ids:
        row = rows.get(name, {})
        # of images without objects there is no AP
        score = row.get("ap_mean")
        score = row.get("dice") if score is None else score
        if score is None:
            raise config_lib.UserError(
                f"data.hard={path} has no score of the training image {name}; "
                "make it with launch.evaluate --split=train on these data"
            )
        scores.append(score)
    rank = np.argsort(np.argsort(scores, kind="stable"), kind="stable")
    return 1 + (rank < len(ids) // 2) + (rank < len(ids) // 4)


def _n_visited(table: np.ndarray, data: config_lib.Data) -> int:
    """Tiles of an epoch."""
    if not data.per_image:
        return len(table)
    return int(np.minimum(np.bincount(table[:, 0]), data.per_image).sum())


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, owners: bytes, per_image: int) -> np.ndarray:
    """The epoch's tiles in their order; `owners` has the image of each."""
    image = np.frombuffer(owners, np.int64)
    order = np.random.default_rng([seed, epoch]).permutation(len(image))
    if not per_image:
        return order
    # of the permuted tiles the first ones of each image
    by_image = np.argsort(image[order], kind="stable")
    n = np.bincount(image)
    rank = np.arange(len(image)) - np.repeat(np.cumsum(n) - n, n)
    return order[np.sort(by_image[rank < per_image])]


def _tile(
    records: records_lib.Records,
    config: config_lib.Config,
    entry: np.ndarray,
    epoch: int,
    at: int,
    n_tiles: int,
) -> Batch:
    i, row, col = (int(n) for n in entry)
    i %= records.n("train")  # of a copy, the image
    record = _teaching(records, config, i)
    if config.data.object_rich and len(record["middles"]):
        rng = np.random.default_rng([config.train.seed, epoch, at, _RICH])
        if rng.random() < config.data.object_rich:
            row, col = _around_object(record, config.data.tile, rng)
    cut = functools.partial(_cut, corner=(row, col), side=config.data.tile)
    real = at < n_tiles
    classes = cut(record["classes"], constant_values=255)
    return {
        "image": cut(record["image"], mode="reflect"),
        "classes": classes if real else np.full_like(classes, 255),
        # cached in whatever type is short
        "labels": cut(record["labels"], dtype=np.int32, constant_values=-1),
        "stats": record["stats"],
        "weight": np.float32(real),
        "ids": np.str_(f"{record['id']}@{row},{col}"),
    }


def _teaching(
    records: records_lib.Records, config: config_lib.Config, i: int
) -> records_lib.Record:
    """A training record: its targets as classes, and where objects are.

    Resized, if so wanted; its statistics stay those of the image as stored.
    """
    data, apart = config.data, config.model.objects

    def make() -> records_lib.Record:
        record = dict(records.read("train", i))
        if data.resize:
            _resize(record, data.resize)
        labels, classes = record["labels"], record["classes"]
        record["classes"] = targets.classes_with_gap(classes, labels, data.gap)
        if labels is None:
            if apart != "none":
                raise config_lib.ConfigError(
                    f"model.objects={apart} is taught by objects, and "
                    f"{record['id']} has classes only; give "
                    "--model.objects=none"
                )
            labels = np.zeros(classes.shape, np.int32)
        if labels.max(initial=0) < 2**16:  # half the memory in the cache
            labels = labels.astype(np.uint16)
        record["labels"] = labels
        if data.object_rich:
            record["middles"] = _middles(classes, labels)
        return record

    key = (
        "teaching", i, data.gap, bool(data.object_rich), data.resize, apart
    )  # fmt: skip
    return records.cached(key, make)


def _resize(record: records_lib.Record, side: int) -> None:
    shape = side, side
    record["image"] = resize.linear(record["image"], shape)
    for name in ("classes", "labels"):
        if record[name] is not None:
            record[name] = resize.nearest(record[name], shape)


def _middles(classes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Middles of the objects' boxes: int32 [N, 2].

    Where objects are not labelled, connected parts of the foreground count.
    """
    if not labels.any():
        foreground = (classes > 0) & (classes < 255)
        labels, _ = ndimage.label(foreground, np.ones((3, 3)))
    found = [box for box in ndimage.find_objects(labels) if box]
    middles = [[(s.start + s.stop) // 2 for s in box] for box in found]
    return np.array(middles, np.int32).reshape(-1, 2)


def _around_object(
    record: records_lib.Record, side: int, rng: np.random.Generator
) -> tuple[int, int]:
    """The corner of a tile with a random object near its middle."""
    middle = rng.choice(record["middles"])
    corner = middle - side // 2 + rng.integers(-side // 4, side // 4 + 1, 2)
    last = np.maximum(np.array(record["classes"].shape) - side, 0)
    row, col = np.clip(corner, 0, last)
    return int(row), int(col)


def _cut(
    array: np.ndarray,
    *,
    corner: tuple[int, int],
    side: int,
    dtype: Any = None,
    **outside: Any,
) -> np.ndarray:
    """A square of the array; what lies beyond its end is padded."""
    row, col = corner
    part = array[row : row + side, col : col + side]
    part = part.astype(dtype or part.dtype)
    short = [(0, side - n) for n in part.shape[:2]]
    if any(after for _, after in short):
        part = np.pad(part, short + [(0, 0)] * (part.ndim - 2), **outside)
    return part


def plain_batches(
    records: records_lib.Records,
    config: config_lib.Config,
    start_step: int,
    n_steps: int,
    process: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """The batches of `n_steps` steps, made ahead by a thread."""
    made: queue.Queue[Any] = queue.Queue(_AHEAD)
    stop = threading.Event()

    def put(item: Any) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                made.put(item, timeout=0.1)
                return

    def work() -> None:
        try:
            for step in range(start_step, start_step + n_steps):
                if stop.is_set():
                    return
                put(batch_at(records, config, step, process))
            put(None)
        except Exception as error:  # whatever it is, the reader shall see it
            put(error)

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        while (item := made.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


def batches(
    records: records_lib.Records,
    config: config_lib.Config,
    start_step: int,
    n_steps: int,
    process: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """The batches of `n_steps` steps, made ahead by tf.data."""
    tf = tensorflow()
    errors: list[Exception] = []
    first = batch_at(records, config, start_step, process)  # shapes, dtypes
    kinds = {k: tf.as_dtype(v.dtype) for k, v in first.items() if k != "ids"}
    kinds["ids"] = tf.string

    def make(step: np.ndarray) -> list[np.ndarray]:
        try:
            batch = batch_at(records, config, int(step), process)
        except Exception as error:  # tf.data would keep only its text
            errors.append(error)
            raise
        batch["ids"] = np.char.encode(batch["ids"], "utf-8").astype(object)
        return [batch[name] for name in kinds]

    def in_graph(step: Any) -> list[Any]:
        return tf.numpy_function(make, [step], list(kinds.values()))

    options = tf.data.Options()
    options.deterministic = True
    n_threads = min(4, os.cpu_count() or 1)
    options.threading.private_threadpool_size = n_threads
    steps = tf.data.Dataset.range(start_step, start_step + n_steps)
    steps = steps.map(in_graph, num_parallel_calls=n_threads)
    steps = steps.prefetch(_AHEAD).with_options(options)
    try:
        for values in steps.as_numpy_iterator():
            batch = dict(zip(kinds, values, strict=True))
            ids = [name.decode("utf-8") for name in batch["ids"]]
            yield batch | {"ids": np.array(ids)}
    except tf.errors.OpError as error:
        raise (errors[0] if errors else error) from error


def tensorflow() -> Any:
    """TensorFlow, which costs seconds to import and must leave GPUs alone."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # or it prints a line
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    return tf
