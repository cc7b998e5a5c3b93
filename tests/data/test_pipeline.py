"""Batches as a function of (seed, step), through tf.data and without it."""

import collections
import os
import pathlib
import subprocess
import sys
import threading

import numpy as np
import pytest

from seg import config as config_lib
from seg import normalize, tiles
from seg.data import pipeline, records, targets
from seg.images import formats, resize

SHAPES = [(40, 70), (16, 16), (9, 21), (1, 1), (64, 33)]


def config_of(**changes):
    knobs = {
        "data.tile": 16,
        "data.overlap": 0.25,
        "train.batch_size": 4,
        "train.seed": 7,
    }
    changes = {name.replace("__", "."): v for name, v in changes.items()}
    return config_lib.replace(config_lib.Config(), knobs | changes)


def record_of(i, labelled=True):
    rng = np.random.default_rng(i)
    shape = SHAPES[i]
    image = rng.integers(0, 2**16, (*shape, 2)).astype(np.uint16)
    labels = np.zeros(shape, np.int32)
    labels[: shape[0] // 3, : shape[1] // 3] = 1
    labels[: shape[0] // 3, shape[1] // 3 : shape[1] // 2] = 2
    return {
        "image": image,
        "stats": normalize.measure(image),
        "classes": (labels > 0).astype(np.uint8),
        "labels": labels if labelled else None,
        "id": f"im{i}",
        "group": "",
    }


def in_memory(n=5, labelled=True, cache_mib=8):
    index = [
        {"id": f"im{i}", "group": "", "shape": list(SHAPES[i])}
        for i in range(n)
    ]
    return records.Records(
        {"train": index},
        "digest",
        lambda split, i: record_of(i, labelled),
        cache_mib,
        config_lib.Config(),
    )


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype.kind == second[name].dtype.kind
        assert np.array_equal(first[name], second[name]), name


def test_tiles_lie_as_their_spacing_says():
    data = config_of(data__tile=16, data__spacing="ceil").data
    table = pipeline.tile_table(np.array(SHAPES), data)
    wanted = [
        (i, *corner)
        for i, shape in enumerate(SHAPES)
        for corner in tiles.windows(shape, 16, 0.25, "ceil")
    ]
    assert [tuple(row) for row in table] == wanted
    other = pipeline.tile_table(np.array(SHAPES), config_of().data)
    assert len(other) != len(table)


def test_whole_images_are_resized():
    config = config_of(data__resize=24, data__tile=24, train__batch_size=5)
    found = in_memory()
    assert pipeline.steps_per_epoch(found, config) == 1  # a tile an image
    batch = pipeline.batch_at(found, config, 0)
    for at, name in enumerate(batch["ids"]):
        record = record_of(int(name[2]))
        assert name[3:] == "@0,0"
        image = resize.linear(record["image"], (24, 24))
        np.testing.assert_array_equal(batch["image"][at], image)
        labels = resize.nearest(record["labels"], (24, 24))
        np.testing.assert_array_equal(batch["labels"][at], labels)
        np.testing.assert_array_equal(batch["classes"][at], labels > 0)
        np.testing.assert_array_equal(batch["stats"][at], record["stats"])
    assert found.get("train", 0)["image"].shape == (*SHAPES[0], 2)
    # one records object serves configs of both kinds
    tiled = pipeline.batch_at(found, config_of(), 0)
    assert tiled["image"].shape == (4, 16, 16, 2)


def test_hard_images_are_seen_more_often(tmp_path):
    path = tmp_path / "images.csv"
    scores = {"im0": 0.9, "im1": 0.2, "im2": 0.5, "im3": 0.7, "im4": None}
    rows = [
        {"image": name, "ap_mean": score, "dice": 0.8}
        for name, score in scores.items()
    ]
    formats.write_table(path, rows, ("image", "dice", "ap_mean"))
    source = in_memory()
    for knobs in ({}, {"data__per_image": 2}):
        plain = config_of(**knobs)
        hard = config_of(data__hard=str(path), **knobs)
        seen = []
        for config in (plain, hard):
            n = pipeline.steps_per_epoch(source, config)
            names = [
                name
                for step in range(n)
                for name, weight in zip(
                    *map(
                        pipeline.batch_at(source, config, step).get,
                        ("ids", "weight"),
                    ),
                    strict=True,
                )
                if weight
            ]
            seen.append(collections.Counter(name[:3] for name in names))
        ratio = {name: seen[1][name] / seen[0][name] for name in scores}
        # half of five are two, a quarter one
        assert ratio == {"im0": 1, "im1": 3, "im2": 2, "im3": 1, "im4": 1}


def test_hard_images_without_a_score_are_named(tmp_path):
    path = tmp_path / "images.csv"
    with pytest.raises(config_lib.UserError, match="not a CSV"):
        pipeline.steps_per_epoch(in_memory(), config_of(data__hard=str(path)))
    rows = [{"image": f"im{i}", "dice": 0.5} for i in range(4)]
    formats.write_table(path, rows, ("image", "dice"))
    with pytest.raises(config_lib.UserError, match="training image im4"):
        pipeline.steps_per_epoch(in_memory(), config_of(data__hard=str(path)))


def test_the_table_covers_every_pixel_of_every_image():
    shapes = np.array(SHAPES)
    table = pipeline.tile_table(shapes, config_of().data)
    for i, shape in enumerate(SHAPES):
        seen = np.zeros(shape, bool)
        for row, col in table[table[:, 0] == i, 1:]:
            seen[row : row + 16, col : col + 16] = True
        assert seen.all()
        assert (table[:, 0] == i).sum() == len(tiles.windows(shape, 16, 0.25))
    assert pipeline.tile_table(shapes[:0], config_of().data).shape == (0, 3)


def test_an_epoch_sees_every_tile_once_and_pads_with_weight_0():
    config, source = config_of(), in_memory()
    table = pipeline.tile_table(source.shapes("train"), config.data)
    every = sorted(f"im{i}@{row},{col}" for i, row, col in table)
    n = pipeline.steps_per_epoch(source, config)
    assert len(every) % 4  # the last batch is ragged
    orders = []
    for epoch in range(2):
        seen = []
        for step in range(epoch * n, epoch * n + n):
            batch = pipeline.batch_at(source, config, step)
            seen += list(batch["ids"][batch["weight"] == 1])
        assert sorted(seen) == every
        orders.append(seen)
    assert orders[0] != orders[1]
    last = pipeline.batch_at(source, config, n - 1)
    assert last["weight"].sum() == len(every) % 4
    assert (last["classes"][last["weight"] == 0] == 255).all()
    assert pipeline.total_steps(source, config) == n * config.train.epochs
    assert pipeline.total_steps(source, config_of(train__steps=9)) == 9


def test_a_tile_is_cut_from_its_image_and_padded_beyond_it():
    config, source = config_of(), in_memory()
    for step in range(pipeline.steps_per_epoch(source, config)):
        batch = pipeline.batch_at(source, config, step)
        for b in np.flatnonzero(batch["weight"]):
            name, corner = batch["ids"][b].split("@")
            row, col = map(int, corner.split(","))
            record = record_of(int(name[2:]))
            shape = record["classes"].shape
            image = np.pad(
                record["image"], [(0, 16), (0, 16), (0, 0)], "reflect"
            )
            inside = np.zeros((16, 16), bool)
            inside[: shape[0] - row, : shape[1] - col] = True
            cut = np.s_[row : row + 16, col : col + 16]
            assert batch["image"].dtype == np.uint16
            assert np.array_equal(batch["image"][b][inside], image[cut][inside])
            for key, outside in (("classes", 255), ("labels", -1)):
                full = np.pad(
                    record[key], [(0, 16), (0, 16)], constant_values=outside
                )
                assert np.array_equal(batch[key][b], full[cut])
            assert np.array_equal(batch["stats"][b], record["stats"])
            if min(shape) > 16:
                assert inside.all()


def test_small_images_are_padded_by_reflection():
    source = in_memory()
    batch = pipeline.batch_at(source, config_of(train__batch_size=64), 0)
    b = list(batch["ids"]).index("im2@0,0")
    image = record_of(2)["image"]
    expected = np.pad(image, [(0, 7), (0, 0), (0, 0)], "reflect")[:, :16]
    assert np.array_equal(batch["image"][b], expected)


def test_any_step_can_be_the_first():
    config, source = config_of(data__object_rich=0.5), in_memory()
    whole = list(pipeline.plain_batches(source, config, 0, 12))
    resumed = list(pipeline.plain_batches(in_memory(), config, 5, 7))
    for first, second in zip(whole[5:], resumed, strict=True):
        assert_same(first, second)
    other = config_of(data__object_rich=0.5, train__seed=8)
    batch = pipeline.batch_at(source, other, 0)
    assert list(batch["ids"]) != list(whole[0]["ids"])


@pytest.mark.parametrize("n_processes", [2, 4])
def test_processes_share_the_global_batch(n_processes):
    config, source = config_of(data__object_rich=0.5), in_memory()
    for step in range(8):
        whole = pipeline.batch_at(source, config, step)
        shares = [
            pipeline.batch_at(source, config, step, (i, n_processes))
            for i in range(n_processes)
        ]
        joined = {
            name: np.concatenate([share[name] for share in shares])
            for name in whole
        }
        assert_same(whole, joined)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(config_lib.ConfigError, match="multiple of 3"):
        pipeline.batch_at(in_memory(), config_of(), 0, (0, 3))


def test_tf_data_gives_the_same_bits():
    config = config_of(data__object_rich=0.3, data__gap=1)
    source = in_memory(cache_mib=0)
    n = pipeline.steps_per_epoch(source, config) + 3
    plain = list(pipeline.plain_batches(source, config, 2, n))
    through = list(pipeline.batches(source, config, 2, n))
    assert len(plain) == n
    for first, second in zip(plain, through, strict=True):
        assert_same(first, second)
    import tensorflow as tf

    assert not tf.config.get_visible_devices("GPU")


def test_a_pack_gives_the_same_batches(tmp_path):
    config, source = config_of(data__object_rich=0.5), in_memory()
    records.pack(source, config, tmp_path / "p.npz", ["train"])
    packed = records.open_pack(tmp_path / "p.npz")
    for step in range(6):
        assert_same(
            pipeline.batch_at(source, config, step),
            pipeline.batch_at(packed, config, step),
        )


@pytest.mark.parametrize("make", [pipeline.batches, pipeline.plain_batches])
def test_an_error_reaches_the_reader_as_it_is(make):
    def read(split, i):
        raise config_lib.UserError("record 3 is damaged")

    source = in_memory()
    source._read = read
    with pytest.raises(config_lib.UserError, match=r"^record 3 is damaged$"):
        list(make(source, config_of(), 0, 3))


def test_an_error_in_mid_stream_reaches_the_reader_through_tf_data():
    source = in_memory(cache_mib=0)
    n_read = []

    def read(split, i):
        n_read.append(i)
        if len(n_read) > 12:
            raise config_lib.UserError("the disk is gone")
        return record_of(i)

    source._read = read
    with pytest.raises(config_lib.UserError, match=r"^the disk is gone$"):
        list(pipeline.batches(source, config_of(), 0, 20))


def test_leaving_early_stops_the_thread():
    stream = pipeline.plain_batches(in_memory(), config_of(), 0, 1000)
    next(stream)
    stream.close()
    assert not [t for t in threading.enumerate() if t.name == "batches"]


def test_object_rich_tiles_lie_in_the_image_and_hold_objects():
    config, source = config_of(data__object_rich=1.0), in_memory(n=1)
    n = pipeline.steps_per_epoch(source, config)
    for step in range(3 * n):
        batch = pipeline.batch_at(source, config, step)
        for b in range(4):
            row, col = map(int, batch["ids"][b].split("@")[1].split(","))
            assert 0 <= row <= 40 - 16 and 0 <= col <= 70 - 16
            assert batch["labels"][b].any()
    ids = [
        tuple(pipeline.batch_at(source, config, step)["ids"])
        for step in range(2 * n)
    ]
    assert len(set(ids)) == len(ids)


def test_object_rich_share_is_about_what_is_asked():
    config, source = config_of(data__object_rich=0.4), in_memory(n=1)
    plain, n_moved, n_tiles = config_of(), 0, 0
    for step in range(60):
        rich = pipeline.batch_at(source, config, step)["ids"]
        n_moved += (rich != pipeline.batch_at(source, plain, step)["ids"]).sum()
        n_tiles += len(rich)
    assert 0.28 < n_moved / n_tiles < 0.5


def test_without_labels_parts_of_the_foreground_are_the_objects():
    config = config_of(data__object_rich=1.0)
    source = in_memory(n=1, labelled=False)
    batch = pipeline.batch_at(source, config, 0)
    assert (batch["classes"] == 1).any((1, 2)).all()
    assert (batch["labels"] <= 0).all() and batch["labels"].dtype == np.int32


def test_the_gap_is_in_the_batch_and_not_in_the_record():
    config, source = config_of(data__gap=1, data__tile=128), in_memory(n=1)
    batch = pipeline.batch_at(source, config, 0)
    record = source.get("train", 0)
    expected = targets.classes_with_gap(record["classes"], record["labels"], 1)
    assert np.array_equal(batch["classes"][0, :40, :70], expected)
    assert (expected != record["classes"]).any()


def test_what_keeps_objects_apart_is_taught_by_objects_alone():
    config = config_of(model__objects="distance")
    assert pipeline.batch_at(in_memory(), config, 0)["labels"].any()
    with pytest.raises(config_lib.ConfigError, match="im0 has classes only"):
        pipeline.batch_at(in_memory(n=1, labelled=False), config, 0)


def test_no_training_images_say_so():
    source = in_memory(n=0)
    with pytest.raises(config_lib.UserError, match="no training images"):
        pipeline.steps_per_epoch(source, config_of())


def test_the_pipeline_imports_without_tensorflow():
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "from seg.data import pipeline, records\n"
        "assert 'tensorflow_datasets' not in sys.modules"
    )
    root = pathlib.Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )


def test_per_image_bounds_the_tiles_of_an_image_and_draws_them_anew():
    source, config = in_memory(), config_of(data__per_image=2)
    n_steps = pipeline.steps_per_epoch(source, config)
    table = pipeline.tile_table(source.shapes("train"), config.data)
    n_tiles = np.bincount(table[:, 0])
    assert n_tiles.max() > 2 and n_steps == -(
        -np.minimum(n_tiles, 2).sum() // 4
    )
    epochs = []
    for epoch in range(3):
        seen = []
        for step in range(epoch * n_steps, (epoch + 1) * n_steps):
            batch = pipeline.batch_at(source, config, step)
            seen += list(batch["ids"][batch["weight"] > 0])
        assert len(set(seen)) == len(seen)
        owners = [name.split("@")[0] for name in seen]
        for i, n in enumerate(n_tiles):
            assert owners.count(f"im{i}") == min(n, 2)
        epochs.append(seen)
    assert len({frozenset(seen) for seen in epochs}) == 3
