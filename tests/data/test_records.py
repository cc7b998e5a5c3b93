"""Records in a bounded cache, and packs that hold the same bits."""

import json
import threading
import zipfile

import numpy as np
import pytest

from seg import config as config_lib
from seg import normalize
from seg.data import records

CONFIG = config_lib.Config()


def record_of(i, *, labelled=True, side=16):
    rng = np.random.default_rng(i)
    image = rng.integers(0, 2**16, (side, side + i, 1)).astype(np.uint16)
    labels = rng.integers(0, 4, image.shape[:2]).astype(np.int32)
    return {
        "image": image,
        "stats": normalize.measure(image),
        "classes": (labels > 0).astype(np.uint8),
        "labels": labels if labelled else None,
        "id": f"image {i}/ä",
        "group": f"group {i // 2}",
    }


def in_memory(n=4, cache_mib=512, read=None, **kinds):
    made = {"train": n, "val": 2, "test": 1}
    index = {
        split: [
            {"id": f"image {i}/ä", "group": f"group {i // 2}",
             "shape": [16, 16 + i]}
            for i in range(count)
        ]
        for split, count in made.items()
    }  # fmt: skip
    read = read or (lambda split, i: record_of(i, **kinds))
    return records.Records(index, "digest", read, cache_mib, CONFIG)


def test_splits_counts_and_shapes_need_no_reading():
    def read(split, i):
        raise AssertionError("read")

    found = in_memory(read=read)
    assert found.splits["val"] == ["image 0/ä", "image 1/ä"]
    assert [found.n(split) for split in records.SPLITS] == [4, 2, 1]
    assert found.shapes("train").tolist() == [[16, 16 + i] for i in range(4)]
    empty = records.Records({}, "", read, 1, CONFIG)
    assert empty.shapes("train").shape == (0, 2) and empty.n("test") == 0


def test_statistics_of_an_earlier_version_are_completed():
    def read(split, i):
        record = record_of(i)
        return record | {"stats": record["stats"][:, :7]}

    found = in_memory(read=read).get("train", 2)
    np.testing.assert_array_equal(found["stats"], record_of(2)["stats"])


def test_mean_and_deviation_are_those_of_the_training_images():
    steps = config_lib.replace(CONFIG, {"data.normalize": "global + minmax"})
    found = records.with_intensities(steps, in_memory())
    pixels = np.concatenate(
        [record_of(i)["image"].ravel() for i in range(4)]
    ).astype(np.float64)
    np.testing.assert_allclose(found.data.mean, pixels.mean(), rtol=1e-6)
    np.testing.assert_allclose(found.data.std, pixels.std(), rtol=1e-6)
    assert records.with_intensities(found, in_memory()) == found
    nothing = in_memory(read=lambda split, i: pytest.fail("read"))
    assert records.with_intensities(CONFIG, nothing) == CONFIG


def test_a_record_is_read_once_and_cannot_be_changed():
    n_read = []
    found = in_memory(read=lambda split, i: n_read.append(i) or record_of(i))
    first = found.get("train", 2)
    assert found.get("train", 2) is first and n_read == [2]
    with pytest.raises(ValueError, match="read-only"):
        first["image"][0, 0] = 1


def test_memory_is_bounded_and_the_least_recently_used_go_first():
    big = record_of(0, side=300)
    size = sum(v.nbytes for v in big.values() if isinstance(v, np.ndarray))
    assert 2**20 / 2 < size < 2**20
    n_read = []

    def read(split, i):
        n_read.append(i)
        return record_of(0, side=300) | {"id": f"image {i}/ä"}

    found = in_memory(n=30, cache_mib=2, read=read)
    for i in range(30):
        found.get("train", i)
        found.get("train", 0)
        assert found.cached_bytes <= 2 * 2**20
    assert n_read == list(range(30))  # 0 was always recent
    found.get("train", 1)
    assert n_read[-1] == 1 and len(n_read) == 31


def test_a_record_larger_than_the_cache_is_served_and_not_kept():
    found = in_memory(cache_mib=0)
    assert np.array_equal(found.get("train", 1)["image"], record_of(1)["image"])
    assert found.cached_bytes == 0


def test_threads_share_the_cache():
    found, errors = in_memory(cache_mib=1), []

    def work(seed):
        for i in np.random.default_rng(seed).integers(0, 4, 200):
            record = found.get("train", int(i))
            if not np.array_equal(record["labels"], record_of(i)["labels"]):
                errors.append(i)

    threads = [threading.Thread(target=work, args=(s,)) for s in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    in_cache = sum(
        value.nbytes
        for i in range(4)
        for value in found.get("train", i).values()
        if isinstance(value, np.ndarray)
    )
    assert found.cached_bytes == in_cache


def test_mixed_up_data_are_noticed():
    found = in_memory(read=lambda split, i: record_of(i + 1))
    with pytest.raises(config_lib.UserError, match="mixed up"):
        found.get("train", 0)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_pack_holds_the_same_records(tmp_path, labelled):
    source = in_memory(labelled=labelled)
    path = tmp_path / "new" / "pack.npz"
    records.pack(source, CONFIG, path)
    packed = records.open_pack(path)
    assert packed.digest == source.digest and packed.config == CONFIG
    assert packed.splits == source.splits | {"test": []}
    for split in ("train", "val"):
        assert np.array_equal(packed.shapes(split), source.shapes(split))
        for i in range(source.n(split)):
            expected, found = source.get(split, i), packed.get(split, i)
            assert expected.keys() == found.keys()
            for name, value in expected.items():
                assert np.array_equal(value, found[name])
                if isinstance(value, np.ndarray):
                    assert value.dtype == found[name].dtype
    if not labelled:
        assert packed.get("train", 0)["labels"] is None


def test_a_pack_keeps_no_password(tmp_path):
    secret = {"track.uri": "https://me:hunter2@host", "train.seed": 4}
    config = config_lib.replace(CONFIG, secret)
    records.pack(in_memory(), config, tmp_path / "p.npz")
    assert b"hunter2" not in np.load(tmp_path / "p.npz")["about"].tobytes()
    packed = records.open_pack(tmp_path / "p.npz")
    assert packed.config == config_lib.replace(CONFIG, {"train.seed": 4})


def test_the_test_split_is_packed_on_request(tmp_path):
    records.pack(in_memory(), CONFIG, tmp_path / "p.npz", records.SPLITS)
    assert records.open_pack(tmp_path / "p.npz").n("test") == 1


def test_packing_twice_gives_the_same_file_and_is_whole(tmp_path):
    first, second = tmp_path / "a.npz", tmp_path / "b.npz"
    records.pack(in_memory(), CONFIG, first)
    records.pack(in_memory(), CONFIG, second)
    assert first.read_bytes() == second.read_bytes()

    def failing(split, i):
        if i == 3:
            raise config_lib.UserError("record 3 is bad")
        return record_of(i)

    with pytest.raises(config_lib.UserError, match="record 3"):
        records.pack(in_memory(read=failing), CONFIG, first)
    assert first.read_bytes() == second.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_a_pack_is_a_plain_npz_without_pickle(tmp_path):
    records.pack(in_memory(), CONFIG, tmp_path / "p.npz")
    with np.load(tmp_path / "p.npz", allow_pickle=False) as archive:
        assert np.array_equal(archive["train/1/image"], record_of(1)["image"])
        assert json.loads(archive["about"].tobytes())["digest"] == "digest"


def test_no_pack_and_other_files_are_user_errors(tmp_path):
    with pytest.raises(config_lib.UserError, match="no pack at"):
        records.open_pack(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("not a pack")
    np.save(tmp_path / "array.npz.npy", np.zeros(3))
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    for name in ("text.npz", "array.npz.npy", "other.npz"):
        with pytest.raises(config_lib.UserError, match="is no pack"):
            records.open_pack(tmp_path / name)


def test_a_pack_of_another_format_says_so(tmp_path):
    path = tmp_path / "p.npz"
    text = json.dumps({"format": 99}).encode()
    np.savez(path, about=np.frombuffer(text, np.uint8))
    with pytest.raises(config_lib.UserError, match="format 99"):
        records.open_pack(path)


def test_damage_is_found_when_the_record_is_read(tmp_path):
    path = tmp_path / "p.npz"
    records.pack(in_memory(), CONFIG, path)
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("train/0/image.npy").header_offset + 150
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)
    packed = records.open_pack(path)
    packed.get("train", 1)
    with pytest.raises(config_lib.UserError, match="or damaged"):
        packed.get("train", 0)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(config_lib.UserError, match="or damaged"):
        records.open_pack(path)
