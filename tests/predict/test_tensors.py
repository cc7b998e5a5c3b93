"""Claims about the safetensors files: the library agrees, damage is seen."""

import json

import numpy as np
import pytest

from seg import config
from seg.predict import tensors

safetensors = pytest.importorskip("safetensors.numpy")

ARRAYS = {
    "down/0/kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "half": np.array([1.5, -2], np.float16),
    "empty": np.zeros((0, 3), np.float32),
    "scalar": np.array(7, np.int64),
    "bytes": np.arange(5, dtype=np.uint8),
    "wide": np.array([np.pi]),
    "true": np.array([True, False]),
    "turned": np.arange(6, dtype=np.int32).reshape(2, 3).T,
}


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_the_library_reads_what_is_written():
    same(safetensors.load(tensors.dump(ARRAYS)), ARRAYS)


def test_what_the_library_writes_is_read():
    plain = {k: np.ascontiguousarray(v) for k, v in ARRAYS.items()}
    plain["scalar"] = ARRAYS["scalar"]
    content = safetensors.save(plain, metadata={"by": "the library"})
    same(tensors.load(content), plain)


def test_equal_arrays_give_equal_bytes_whatever_their_order():
    backwards = dict(reversed(ARRAYS.items()))
    assert tensors.dump(ARRAYS) == tensors.dump(backwards)


def test_complex_numbers_are_refused():
    with pytest.raises(config.UserError, match="complex"):
        tensors.dump({"a": np.zeros(2, complex)})


def with_header(header, data=b"\0" * 8):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        b"\x02\0\0\0\0\0\0\0{",
        b"\x02\0\0\0\0\0\0\0[]",
        b"\x02\0\0\0\0\0\0\0{]",
        with_header(
            {"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}
        ),
        with_header(
            {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}
        ),
        with_header(
            {"a": {"dtype": "F32", "shape": [-2], "data_offsets": [8, 0]}}
        ),
        with_header(
            {"a": {"dtype": "O", "shape": [1], "data_offsets": [0, 8]}}
        ),
        with_header({"a": {"dtype": "F32", "shape": [2]}}),
        with_header({"a": 3}),
    ],
)
def test_damage_is_a_user_error(content):
    with pytest.raises(config.UserError, match="safetensors"):
        tensors.load(content)
