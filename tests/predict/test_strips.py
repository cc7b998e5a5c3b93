import numpy as np
import pytest

from seg import config
from seg.predict import strips


def _filled(folder, array, height, name="array"):
    store = strips.Strips(folder, name, array.shape, array.dtype, height)
    for i in range(len(store)):
        top, bottom = store.span(i)
        store.put(i, array[top:bottom])
    return store


@pytest.mark.parametrize("height", [1, 3, 7, 20, 50])
@pytest.mark.parametrize("shape", [(20, 9), (20, 9, 3), (1, 1)])
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.float32])
def test_any_rows_come_back_as_they_were_put(tmp_path, height, shape, dtype):
    random = np.random.default_rng(height)
    array = random.integers(0, 200, shape).astype(dtype)
    store = _filled(tmp_path, array, height)
    for _ in range(20):
        top, bottom = sorted(random.choice(shape[0] + 1, 2, replace=False))
        rows = store.get(top, bottom)
        assert rows.dtype == array.dtype
        np.testing.assert_array_equal(rows, array[top:bottom])
        with pytest.raises(ValueError, match="read-only"):
            rows[:] = 0


def test_a_strip_put_again_takes_the_place_of_the_first(tmp_path):
    store = _filled(tmp_path, np.zeros((4, 5)), 2)
    store.get(0, 4)
    store.put(1, np.ones((2, 5)))
    assert store.get(1, 3).tolist() == [[0] * 5, [1] * 5]


def test_what_is_there_already_stays(tmp_path):
    first = strips.Strips(tmp_path, "a", (5, 3), np.uint8, 2)
    assert [first.has(i) for i in range(len(first))] == [False] * 3
    first.put(2, np.ones((1, 3), np.uint8))
    again = strips.Strips(tmp_path, "a", (5, 3), np.uint8, 2)
    assert [again.has(i) for i in range(len(again))] == [False, False, True]
    assert again.get(4, 5).all()
    again.remove()
    assert not first.has(2)
    assert not any(tmp_path.iterdir())


def test_calls_from_the_top_down_decode_each_strip_once(tmp_path, monkeypatch):
    store = _filled(tmp_path, np.arange(60).reshape(20, 3), 4)
    decoded = []
    read = store._read
    monkeypatch.setattr(
        store, "_read", lambda i: (decoded.append(i), read(i))[1]
    )
    for top in range(0, 15, 3):
        store.get(top, top + 6)
    assert decoded == [0, 1, 2, 3, 4]
    assert len(store._kept) <= 3


@pytest.mark.parametrize("damage", [b"", b"nonsense", None, 3])
def test_a_damaged_strip_is_told(tmp_path, damage):
    store = _filled(tmp_path, np.arange(40).reshape(4, 10), 2)
    path = store.folder / "000001.zst"
    if damage is None:  # another strip's
        other = _filled(tmp_path, np.arange(5).reshape(1, 5), 1, "b")
        damage = (other.folder / "000000.zst").read_bytes()
    elif damage == 3:
        damage = path.read_bytes()[:-3]
    path.write_bytes(damage)
    assert store.get(0, 2).any()
    with pytest.raises(config.UserError, match=r"000001\.zst is damaged"):
        store.get(0, 4)


def test_wrong_uses_are_refused(tmp_path):
    store = strips.Strips(tmp_path, "a", (5, 3), np.uint8, 2)
    with pytest.raises(ValueError, match="at least 1"):
        strips.Strips(tmp_path, "a", (5, 3), np.uint8, 0)
    with pytest.raises(ValueError, match="uint8"):
        store.put(0, np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"\(1, 3\)"):
        store.put(2, np.zeros((2, 3), np.uint8))
    with pytest.raises(IndexError):
        store.put(3, np.zeros((1, 3), np.uint8))
    with pytest.raises(ValueError, match="rows 3:6"):
        store.get(3, 6)
    with pytest.raises(FileNotFoundError):
        store.get(0, 1)


def test_a_failed_write_leaves_no_strip(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    store = strips.Strips(tmp_path, "a", (5, 3), np.uint8, 5)
    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(config.UserError, match="disk is full"):
        store.put(0, np.zeros((5, 3), np.uint8))
    assert not store.has(0)
