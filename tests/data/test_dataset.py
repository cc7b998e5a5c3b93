"""Prepared records: exact, whole or not at all, and never stale."""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
import tifffile
from PIL import Image

from seg import config as config_lib
from seg import normalize
from seg.data import dataset, files, layouts, synthetic, targets

ROOT = pathlib.Path(__file__).parents[2]


def config_of(folder, **changes):
    knobs = {
        "data.dir": str(folder / "data"),
        "synthetic.n_train": 4,
        "synthetic.n_val": 1,
        "synthetic.n_test": 2,
        "synthetic.height": 40,
        "synthetic.width": 50,
        "synthetic.diameter": 12,
        "synthetic.n_objects": 6,
    }
    changes = {name.replace("__", "."): v for name, v in changes.items()}
    return config_lib.replace(config_lib.Config(), knobs | changes)


def folder_config(folder, **changes):
    return config_of(
        folder,
        data__layout="folders",
        data__path=str(folder / "raw"),
        **changes,
    )


@pytest.fixture
def raw(tmp_path):
    """Six images, of three dtypes, with masks of object ids."""
    for name in ("images", "masks"):
        (tmp_path / "raw" / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(6):
        image = rng.integers(0, 256, (20, 24 + i)).astype(np.uint8)
        path = tmp_path / "raw" / "images" / f"im{i}"
        if i == 3:
            tifffile.imwrite(f"{path}.tif", image.astype(np.uint16) * 250)
        elif i == 4:
            tifffile.imwrite(f"{path}.tif", image.astype(np.float32) / 7)
        else:
            Image.fromarray(image).save(f"{path}.png")
        mask = np.zeros(image.shape, np.uint8)
        mask[2:9, 3:11], mask[12:18, 5:9] = 7, 9
        Image.fromarray(mask).save(tmp_path / "raw" / "masks" / f"im{i}.png")
    return tmp_path


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    config = config_of(folder)
    return config, dataset.prepare(config, progress=False)


def prepared_folder(config):
    (found,) = (
        path.parent
        for path in pathlib.Path(config.data.dir).glob("*/*/split.json")
    )
    return found


def test_records_are_what_was_drawn(drawn):
    config, records = drawn
    assert [records.n(s) for s in ("train", "val", "test")] == [4, 1, 2]
    every = [
        records.get(split, i)
        for split in ("train", "val", "test")
        for i in range(records.n(split))
    ]
    assert len({record["id"] for record in every}) == 7
    for index, record in enumerate(every):
        expected = synthetic.draw(config.synthetic, index)
        for name, array in expected.items():
            assert np.array_equal(record[name], array)
            assert record[name].dtype == array.dtype
        stats = normalize.measure(expected["image"])
        assert np.array_equal(record["stats"], stats)
        assert isinstance(record["id"], str)
    assert records.shapes("test").tolist() == [[40, 50], [40, 50]]


def test_opening_finds_the_same_records(drawn):
    config, records = drawn
    opened = dataset.open(config)
    assert opened.digest == records.digest and opened.splits == records.splits
    assert np.array_equal(
        opened.get("val", 0)["image"], records.get("val", 0)["image"]
    )


def test_preparing_again_changes_nothing_and_says_so(drawn, capsys):
    config, records = drawn
    folder = prepared_folder(config)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    started = time.perf_counter()
    again = dataset.prepare(config)
    assert time.perf_counter() - started < 2
    assert "already prepared" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    assert again.digest == records.digest


def test_any_tfds_reader_can_read_it(drawn):
    config, records = drawn
    builder = tfds.builder_from_directory(
        prepared_folder(config) / "segmentation" / "1.0.0"
    )
    source = builder.as_data_source(split="train")
    assert len(source) == 4 and builder.info.splits["test"].num_examples == 2
    assert np.array_equal(
        source[2]["labels"], records.get("train", 2)["labels"]
    )


def test_knobs_that_change_records_are_another_folder(drawn, tmp_path):
    config, _ = drawn
    with pytest.raises(config_lib.UserError, match="is not prepared"):
        dataset.open(config_lib.replace(config, {"synthetic.seed": 1}))
    same = {"data.tile": 32, "train.seed": 3, "data.cache_mib": 1}
    dataset.open(config_lib.replace(config, same))


def test_images_are_stored_with_objects_of_one_size(drawn, tmp_path):
    config, records = drawn
    larger = {"data.rescale": 25.0, "data.dir": str(tmp_path / "data")}
    config = config_lib.replace(config, larger)
    scaled = dataset.prepare(config, progress=False)
    assert scaled.digest != records.digest
    for i in range(scaled.n("train")):
        record, before = scaled.get("train", i), records.get("train", i)
        areas = np.bincount(record["labels"][record["labels"] > 0])
        assert targets.diameter(areas) == pytest.approx(25, rel=0.05)
        assert record["image"].shape[:2] == record["classes"].shape
        assert record["image"].shape > before["image"].shape
        wanted = normalize.measure(record["image"])
        np.testing.assert_array_equal(record["stats"], wanted)
    with pytest.raises(config_lib.UserError, match="not prepared"):
        dataset.open(config_lib.replace(config, {"data.rescale": 20.0}))


def test_images_share_the_widest_dtype_and_keep_their_own_statistics(raw):
    records = dataset.prepare(folder_config(raw), progress=False)
    found = {}
    for split in ("train", "val", "test"):
        for i in range(records.n(split)):
            record = records.get(split, i)
            assert record["image"].dtype == np.float32
            found[record["id"][-1]] = record
    limit = normalize.COLUMNS.index("limit")
    limits = [found[str(i)]["stats"][0, limit] for i in range(6)]
    assert limits == [255, 255, 255, 65535, 1, 255]
    for i, record in found.items():
        path = next((raw / "raw" / "images").glob(f"im{i}.*"))
        read = tifffile.imread if path.suffix == ".tif" else Image.open
        assert np.array_equal(record["image"][..., 0], np.asarray(read(path)))
        assert len(np.unique(record["labels"])) == 3


def test_images_become_the_models_channels(raw):
    config = folder_config(raw, model__in_channels=3)
    record = dataset.prepare(config, progress=False).get("train", 0)
    assert record["image"].shape[-1] == 3 and record["stats"].shape[0] == 3


def test_changed_raw_files_are_detected(raw):
    config = folder_config(raw)
    with pytest.raises(config_lib.UserError, match=r"launch\.prepare"):
        dataset.open(config)
    first = dataset.prepare(config, progress=False)
    changed = Image.fromarray(np.full((20, 24), 3, np.uint8))
    changed.save(raw / "raw" / "images" / "im0.png")
    with pytest.raises(config_lib.UserError, match="has changed since"):
        dataset.open(config)
    again = dataset.prepare(config, progress=False)
    assert again.digest != first.digest
    shutil.rmtree(raw / "raw" / "images")
    shutil.rmtree(raw / "raw" / "masks")


def test_raw_files_are_read_again_only_when_they_were_written(raw, monkeypatch):
    config = folder_config(raw)
    first = dataset.prepare(config, progress=False)
    read = []
    crc = files.Folder.crc
    monkeypatch.setattr(
        files.Folder, "crc", lambda *of: read.append(of) or crc(*of)
    )
    assert dataset.open(config).digest == first.digest and not read
    image = raw / "raw" / "images" / "im0.png"
    os.utime(image, ns=(1, 1))  # another time, the same bytes
    assert dataset.open(config).digest == first.digest and read


def test_prepared_data_are_enough_where_the_raw_files_are_not(raw):
    config = folder_config(raw)
    first = dataset.prepare(config, progress=False)
    shutil.rmtree(raw / "raw")
    assert dataset.open(config).digest == first.digest


def test_a_password_is_not_kept_and_makes_no_other_data(tmp_path):
    secret = {"track.uri": "https://me:hunter2@host"}
    config = config_of(tmp_path)
    private = config_lib.replace(config, secret)
    first = dataset.prepare(private, progress=False)
    assert first.digest == dataset.open(private).digest
    assert first.digest == dataset.open(config).digest
    index = prepared_folder(config) / "split.json"
    assert "hunter2" not in index.read_text()


def test_defects_are_listed_and_nothing_is_written(raw):
    (raw / "raw" / "masks" / "im1.png").unlink()
    (raw / "raw" / "images" / "im2.png").write_bytes(b"no image")
    config = folder_config(raw)
    with pytest.raises(dataset.DefectsError, match="2 defects") as caught:
        dataset.prepare(config, progress=False)
    assert len(caught.value.defects) == 2
    assert "\n" not in str(caught.value)
    assert not list((raw / "data").rglob("*.array_record*"))


def test_a_wrong_archive_is_refused(tmp_path):
    archive = tmp_path / "raw.zip"
    archive.write_bytes(b"something else")
    config = config_of(
        tmp_path,
        data__layout="stardist",
        data__path=str(archive),
        data__sha256="0" * 64,
    )
    with pytest.raises(config_lib.UserError, match="sha256 is"):
        dataset.prepare(config, progress=False)


def test_a_folder_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(config_lib.UserError, match=r"another data\.dir"):
        dataset.prepare(config_of(tmp_path), progress=False)


def test_damaged_records_are_user_errors(tmp_path):
    config = config_of(tmp_path)
    dataset.prepare(config, progress=False)
    folder = prepared_folder(config)
    (path,) = folder.rglob("*train.array_record*")
    content = bytearray(path.read_bytes())
    for at in range(2000, len(content) - 200, 97):
        content[at] ^= 0x55
    path.write_bytes(content)
    with pytest.raises(config_lib.UserError, match="damaged"):
        records = dataset.open(config)
        for i in range(records.n("train")):
            records.get("train", i)
    (folder / "segmentation" / "1.0.0" / "features.json").unlink()
    with pytest.raises(config_lib.UserError, match="damaged"):
        dataset.open(config)


def test_nothing_reaches_for_the_network(tmp_path, monkeypatch):
    def refuse(*args):
        raise AssertionError(f"network: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    records = dataset.prepare(config_of(tmp_path), progress=False)
    assert records.get("train", 0)["labels"].any()


def test_a_second_preparation_waits_for_the_first(tmp_path, capsys):
    config = config_of(tmp_path)
    root = tmp_path / "data" / "synthetic"
    root.mkdir(parents=True)
    other = threading.Thread(target=dataset.prepare, args=(config,))
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other.start()
        other.join(1.0)
        assert other.is_alive() and not list(root.glob("*/split.json"))
    other.join(60)
    assert "waiting for another" in capsys.readouterr().err
    assert dataset.open(config).n("train") == 4


def test_killed_halfway_leaves_nothing_half_done_and_runs_again(tmp_path):
    config = config_of(tmp_path, synthetic__n_train=300)
    script = (
        "import sys; from seg import config; from seg.data import dataset\n"
        "dataset.prepare(config.from_json(sys.argv[1])).get('test', 1)\n"
        "assert 'tensorflow' not in sys.modules"
    )
    command = [sys.executable, "-c", script, config_lib.to_json(config)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("prepared"):
                break
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    root = tmp_path / "data" / "synthetic"
    assert list(root.glob(".*.partial")) and not list(root.glob("[!.]*"))
    with pytest.raises(config_lib.UserError, match="is not prepared"):
        dataset.open(config)
    subprocess.run(command, check=True, env=environment)
    assert dataset.open(config).n("train") == 300
    assert not list(root.glob(".*.partial"))


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(
    tmp_path, capsys, monkeypatch
):
    dataset.prepare(config_of(tmp_path))
    lines = capsys.readouterr()
    assert "prepared 7 of 7 images" in lines.err and not lines.out
    assert len(lines.err.splitlines()) < 13
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with contextlib.suppress(ImportError):
        dataset.prepare(config_of(tmp_path, synthetic__seed=1))
        assert "7/7" in capsys.readouterr().err


@pytest.mark.parametrize("policy", ["first", "smallest"])
def test_overlaps_that_were_resolved_are_counted_and_said(
    tmp_path, capsys, policy
):
    for i in range(8):
        for name in ("images", "masks"):
            (tmp_path / "raw" / f"im{i}" / name).mkdir(parents=True)
        image = np.random.default_rng(i).integers(0, 255, (20, 24), np.uint8)
        if i == 7:  # all is read twice, in a wider dtype, but counted once
            image = image.astype(np.uint16)
        folder = tmp_path / "raw" / f"im{i}"
        Image.fromarray(image).save(folder / "images" / "im.png")
        for k in range(2):
            mask = np.zeros((20, 24), np.uint8)
            # 3 columns of 5 px in common, in three of the images
            mask[2:7, 2 + 9 * k - 4 * (i < 3) * k :][:, :8] = 255
            Image.fromarray(mask).save(folder / "masks" / f"{k}.png")
    config = config_of(
        tmp_path,
        data__layout="dsb2018",
        data__path=str(tmp_path / "raw"),
        data__overlaps=policy,
    )
    line = (
        "masks of objects overlapped in 45 px of 3 images, resolved by "
        f"data.overlaps={policy}"
    )
    for _ in range(2):
        dataset.prepare(config)
        assert line in capsys.readouterr().err.splitlines()
    about = json.loads((prepared_folder(config) / "split.json").read_text())
    assert about["overlaps"] == {"px": 45, "images": 3}


def test_each_phase_that_reads_the_files_says_how_far_it_is(raw, capsys):
    config = folder_config(raw)
    config = config_lib.replace(config, {"data.layout": "stardist"})
    dataset.prepare(config)
    lines = capsys.readouterr().err.splitlines()
    last = ("read 12 of 12 files", "checked 6 of 6 images")
    last += ("grouped 6 of 6 images", "prepared 6 of 6 images")
    at = [[line.startswith(x) for line in lines].index(True) for x in last]
    assert at == sorted(at) and len(lines) <= 41
    dataset.prepare(config, progress=False)
    assert layouts.verify(config) == [] and layouts.scan(config)
    assert not capsys.readouterr().err


def test_the_sums_of_a_zip_take_no_time_and_no_lines(raw, capsys):
    archive = shutil.make_archive(str(raw / "raw"), "zip", raw / "raw")
    config = folder_config(raw)
    layouts.source_digest(
        config_lib.replace(config, {"data.path": archive}), progress=True
    )
    assert not capsys.readouterr().err
    layouts.source_digest(config, progress=True)
    assert "read 12 of 12 files" in capsys.readouterr().err


def test_folds_are_prepared_side_by_side(tmp_path, drawn):
    config, whole = drawn
    pool = {*whole.splits["train"], *whole.splits["val"]}
    validated = []
    for fold in range(5):
        changes = {"data.folds": 5, "data.fold": fold}
        found = dataset.prepare(
            config_lib.replace(config, changes), progress=False
        )
        assert found.splits["test"] == whole.splits["test"]
        assert {*found.splits["train"], *found.splits["val"]} == pool
        validated += found.splits["val"]
    assert sorted(validated) == sorted(pool)
    assert dataset.open(config).splits == whole.splits


def test_records_know_whom_they_left_out(raw, tmp_path):
    config = folder_config(raw)
    listed = tmp_path / "gone.txt"
    listed.write_text("im0")
    less = config_lib.replace(config, {"data.exclude": str(listed)})
    first = dataset.prepare(less, progress=False)
    every = {name for names in first.splits.values() for name in names}
    assert not any("im0" in name for name in every)
    listed.write_text("im0\nim1")
    with pytest.raises(config_lib.UserError, match="not prepared"):
        dataset.open(less)
    second = dataset.prepare(less, progress=False)
    every = {name for names in second.splits.values() for name in names}
    assert not any("im1" in name for name in every)
    assert dataset.open(less).splits == second.splits
    listed.write_text("im0")
    assert dataset.open(less).splits == first.splits
