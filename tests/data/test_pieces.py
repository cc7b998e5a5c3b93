"""data.split=tiles: the leak of arXiv:1907.03576, on purpose and said aloud."""

import collections
import logging

import numpy as np
import pytest
from PIL import Image

from seg import config as config_lib
from seg import normalize
from seg.data import dataset, layouts, pipeline, split


def of(folder, **changes):
    knobs = {
        "data.dir": str(folder / "data"),
        "data.split": "tiles",
        "data.tile": 16,
        "synthetic.n_train": 5,
        "synthetic.n_val": 1,
        "synthetic.n_test": 2,
        "synthetic.height": 40,
        "synthetic.width": 52,
        "synthetic.diameter": 9,
        "synthetic.n_objects": 6,
    }
    changes = {name.replace("__", "."): v for name, v in changes.items()}
    return config_lib.replace(config_lib.Config(), knobs | changes)


def image_of(name):
    return name.partition("@")[0]


def test_tiles_of_one_image_are_on_both_sides_and_the_test_stays_whole(
    tmp_path,
):
    config = of(tmp_path)
    whole = {
        s.id: s
        for s in layouts.scan(
            config_lib.replace(config, {"data.split": "auto"})
        )
    }
    samples = layouts.scan(config)
    parts = collections.defaultdict(set)
    for sample in samples:
        parts[sample.split].add(image_of(sample.id))
    assert parts["train"] & parts["val"]
    assert parts["test"] == {n for n, s in whole.items() if s.split == "test"}
    assert not parts["test"] & (parts["train"] | parts["val"])
    tests = {s.id for s in samples if s.split == "test"}
    assert tests == parts["test"]  # no "@": whole
    split.check_leaks(samples, {s.id: s.split for s in samples})
    counts = collections.Counter(s.split for s in samples)
    n = counts["train"] + counts["val"]
    assert counts["val"] == pytest.approx(0.15 * 8 / 6 * n, abs=1)


def test_the_pieces_are_the_tiles_of_training(tmp_path):
    config = of(tmp_path)
    shapes = np.array([[40, 52]] * 6)
    table = pipeline.tile_table(shapes, config.data)
    pieces = [s for s in layouts.scan(config) if s.split != "test"]
    assert len(pieces) == len(table)
    found = {s.id.partition("@")[2] for s in pieces}
    assert found == {f"{row},{col}" for _, row, col in table.tolist()}
    assert {s.shape() for s in pieces} == {(16, 16)}
    small = layouts.scan(of(tmp_path, data__tile=64))
    assert {s.shape() for s in small} == {(40, 52)}
    assert all(s.load()["image"].shape == (40, 52, 1) for s in small[:2])


def test_a_piece_is_cut_from_its_image_and_scaled_as_the_whole(tmp_path):
    config = of(tmp_path)
    auto = config_lib.replace(config, {"data.split": "auto"})
    whole = {s.id: s.load() for s in layouts.scan(auto)}
    pieces = [s for s in layouts.scan(config) if "@" in s.id]
    for sample in pieces[::7]:
        name, _, corner = sample.id.partition("@")
        row, col = map(int, corner.split(","))
        box = np.s_[row : row + 16, col : col + 16]
        found, image = sample.load(), whole[name]
        for key in ("image", "classes"):
            np.testing.assert_array_equal(found[key], image[key][box])
        labels, of_image = found["labels"], image["labels"][box]
        assert labels.dtype == np.int32
        pairs = set(
            zip(labels.ravel().tolist(), of_image.ravel().tolist(), strict=True)
        )
        assert len(pairs) == len(np.unique(labels)) == labels.max() + 1
        stats = normalize.measure(image["image"])
        np.testing.assert_array_equal(found["stats"], stats)


def test_records_of_tiles_say_that_they_leak(tmp_path, caplog):
    config = of(tmp_path)
    with caplog.at_level(logging.WARNING, "seg"):
        records = dataset.prepare(config, progress=False)
    assert "leak" in caplog.text and "data.split=group" in caplog.text
    assert records.shapes("train").tolist()[0] == [16, 16]
    assert records.shapes("test").tolist() == [[40, 52]] * 2
    caplog.clear()
    with caplog.at_level(logging.WARNING, "seg"):
        assert dataset.open(config).digest == records.digest
        honest = config_lib.replace(config, {"data.split": "auto"})
        with pytest.raises(config_lib.UserError, match="not prepared"):
            dataset.open(honest)
    assert caplog.text.count("leak") == 1
    # another tile is another cut, unlike for any other split
    other = config_lib.replace(config, {"data.tile": 32})
    with pytest.raises(config_lib.UserError, match="not prepared"):
        dataset.open(other)
    batch = pipeline.batch_at(records, config, 0)
    assert batch["image"].shape[1:] == (16, 16, 1)


def test_each_image_is_decoded_once_for_its_pieces(tmp_path, monkeypatch):
    config = of(tmp_path)
    loads = collections.Counter()
    drawn = layouts.synthetic.draw

    def counted(spec, index):
        loads[index] += 1
        return drawn(spec, index)

    monkeypatch.setattr(layouts.synthetic, "draw", counted)
    for name in ("train", "val"):  # in this order records are written
        for sample in layouts.scan(config):
            if sample.split == name:
                sample.load()
    assert loads and max(loads.values()) <= 2


def raw(folder, *names):
    rng = np.random.default_rng(0)
    for name in names:
        image = rng.integers(0, 255, (20, 24), np.uint8)
        for kind in ("images", "masks"):
            path = folder / name.format(kind)
            path.parent.mkdir(parents=True, exist_ok=True)
            values = image if kind == "images" else (image > 250) * 1
            Image.fromarray(values.astype(np.uint8)).save(path)


def test_without_a_published_test_whole_groups_are_taken_for_it(tmp_path):
    names = [f"{{}}/p{k}/{i}.png" for k in range(5) for i in range(3)]
    raw(tmp_path / "raw", *names)
    config = of(
        tmp_path, data__layout="folders", data__path=str(tmp_path / "raw")
    )
    samples = layouts.scan(config)
    plates = collections.defaultdict(set)
    for sample in samples:
        plates[sample.split].add(sample.id.partition("/")[0])
    assert plates["test"] and not plates["test"] & plates["train"]
    assert plates["val"] & plates["train"]
    assert {s.shape() for s in samples if s.split == "test"} == {(20, 24)}


def test_cutting_and_resizing_exclude_each_other(tmp_path):
    with pytest.raises(config_lib.ConfigError, match=r"data\.resize=128"):
        layouts.scan(of(tmp_path, data__resize=128))
