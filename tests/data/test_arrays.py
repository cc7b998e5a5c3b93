"""Label arrays: read as they are, refused before anything runs."""

import io
import pickle

import numpy as np
import pytest

from seg import images
from seg.data import arrays


def saved(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "dtype", ["?", "u1", "i1", "<i2", ">i2", "u4", "i4", ">i8", "u8"]
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_labels_are_read_as_they_are(dtype, order):
    array = np.arange(12).reshape(3, 4) % 3
    array = np.asarray(array, dtype, order=order)
    for stored in (array, array[..., None]):
        found = arrays.read_labels(saved(stored), name="a.npy")
        np.testing.assert_array_equal(found, array)
        assert found.dtype.isnative and found.dtype.kind in "iu"
        assert found.dtype.itemsize == array.dtype.itemsize


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("code was run",))


def test_a_pickle_is_refused_and_not_run():
    array = np.empty((2, 2), object)
    array[:] = Bomb()
    content = saved(array, allow_pickle=True)
    with pytest.raises(images.ImageError, match=r"a\.npy: .*could run code"):
        arrays.read_labels(content, name="a.npy")
    with pytest.raises(images.ImageError, match=r"not a \.npy file"):
        arrays.read_labels(pickle.dumps(Bomb()), name="a.npy")


def forged(shape, *, end=b" }"):
    """A header of uint8 labels that says this shape, and 8 bytes."""
    text = b"{'descr': '|u1', 'fortran_order': False, 'shape': " + shape + end
    length = len(text).to_bytes(2, "little")
    return b"\x93NUMPY\x01\x00" + length + text + bytes(8)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (saved(np.zeros((3, 4))), "labels of type float64"),
        (saved(np.zeros((3, 4), "c8")), "labels of type complex64"),
        (saved(np.zeros((3, 4), [("a", "i4")])), "labels of type"),
        (saved(np.zeros(3, int)), r"shape \(3,\)"),
        (saved(np.zeros((3, 4, 2), int)), r"shape \(3, 4, 2\)"),
        (saved(np.zeros((0, 4), int)), r"shape \(0, 4\)"),
        (saved(np.zeros((3, 4), int))[:-1], "cut short"),
        (saved(np.full((3, 4), 2**63, np.uint64)), "smaller ones"),
        (b"", "not a .npy"),
        (b"\x93NUMPY\x01\x00\x10\x00{'descr'", "not a .npy"),
        (b"\x93NUMPY\x03\x00", "not a .npy"),
        (forged(b"(2, 4)", end=b", ("), "not a .npy"),
        (forged(b"(2L, 4L)"), "not a .npy"),  # of Python 2
        (forged(b"(-2, -4)"), r"shape \(-2, -4\)"),
        (forged(b"(" * 5000 + b")" * 5000), "not a .npy"),
        (forged(b"(2, " + b"9" * 400 + b")"), "megapixels"),
        (b"x" * 100, "not a .npy"),
    ],
)
def test_what_is_no_label_array_is_refused_by_name(content, what):
    with pytest.raises(
        images.ImageError, match=rf"^a\.npy: .*{what}"
    ) as caught:
        arrays.read_labels(content, name="a.npy")
    assert ";" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("side", [10**4 * 3, 10**9])
def test_a_header_that_promises_too_much_takes_no_memory(side):
    with pytest.raises(images.ImageError, match="megapixels"):
        arrays.read_labels(forged(b"(%d, %d)" % (side, side)), name="a.npy")
