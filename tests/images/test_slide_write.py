import json
import math
import tracemalloc

import numpy as np
import pytest
import tifffile

from seg import config
from seg.images import read, slide, slide_write

RNG = np.random.default_rng(0)
IMAGES = [
    ((1300, 700), "u1"),
    ((1300, 700), "u2"),
    ((513, 1025), "u4"),
    ((512, 512), "u2"),
    ((600, 530, 3), "u1"),
    ((600, 530, 3), "f4"),
    ((600, 530, 2), "f4"),
    ((40, 30), "u1"),
]


def values(shape, dtype):
    steps = RNG.integers(-3, 4, shape).cumsum(0)
    if np.dtype(dtype).kind == "f":
        return (steps / 7).astype(dtype)
    return (steps % 251).astype(dtype)


def cut(array, heights):
    """The array in strips of these heights, over and over."""
    top, i = 0, 0
    while top < len(array):
        yield array[top : top + heights[i % len(heights)]]
        top += heights[i % len(heights)]
        i += 1


@pytest.mark.parametrize("heights", [[192], [1, 700, 0, 33], [5000]], ids=str)
@pytest.mark.parametrize(("shape", "dtype"), IMAGES)
def test_a_tiff_holds_the_strips_whatever_their_heights(
    tmp_path, heights, shape, dtype
):
    array = values(shape, dtype)
    path = tmp_path / "a.tif"
    slide_write.write_tiff(path, cut(array, heights), shape, dtype)
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0]
        assert tif.is_bigtiff and len(tif.pages) == 1
        assert (page.tilelength, page.tilewidth) == (512, 512)
        assert page.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        assert page.dtype == dtype
        np.testing.assert_array_equal(tif.asarray(), array)
    if dtype != "u4":
        np.testing.assert_array_equal(
            read.read_image(path), array.reshape(*shape[:2], -1)
        )
    if len(shape) == 2 and dtype != "f4":
        np.testing.assert_array_equal(read.read_mask(path), array)


def test_three_channels_of_bytes_are_colours_and_of_floats_are_not(tmp_path):
    for dtype, meaning in (("u1", "RGB"), ("f4", "MINISBLACK")):
        path = tmp_path / f"{dtype}.tif"
        array = values((30, 20, 3), dtype)
        slide_write.write_tiff(path, [array], array.shape, dtype)
        with tifffile.TiffFile(path) as tif:
            assert tif.pages[0].photometric.name == meaning


def writers(kind):
    def write(path, strips, shape, dtype):
        if kind == "tif":
            return slide_write.write_tiff(path, strips, shape, dtype)
        pytest.importorskip("zarr")
        return slide_write.write_zarr(path, strips, shape, dtype, labels=False)

    return write


@pytest.mark.parametrize("kind", ["tif", "zarr"])
def test_strips_of_a_wider_type_are_narrowed_if_they_fit(tmp_path, kind):
    array = values((600, 100), "i4")
    path = tmp_path / f"a.{kind}"
    writers(kind)(path, cut(array, [100]), array.shape, "u2")
    with slide.open_slide(path) as opened:
        np.testing.assert_array_equal(opened.rows(0, 600)[..., 0], array)


@pytest.mark.parametrize("kind", ["tif", "zarr"])
@pytest.mark.parametrize(
    ("strips", "message"),
    [
        ([np.zeros((50, 20), "u1")], "50 rows of the 100"),
        ([], "0 rows of the 100"),
        ([np.zeros((101, 20), "u1")], "more rows"),
        ([np.zeros((100, 20), "u1")] * 2, "more rows"),
        ([np.zeros((100, 21), "u1")], "a strip"),
        ([np.full((100, 20), 256)], "values beyond uint8"),
        ([np.full((100, 20), -1)], "values beyond uint8"),
        ([np.zeros((100, 20), "f4")], "float32, not uint8"),
    ],
)
def test_wrong_strips_leave_nothing_behind(tmp_path, kind, strips, message):
    with pytest.raises(ValueError, match=message):
        writers(kind)(tmp_path / f"a.{kind}", strips, (100, 20), "u1")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["tif", "zarr"])
def test_a_failure_on_the_way_leaves_the_old_result(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    array = values((2100, 600), "u1")
    writers(kind)(path, [array], array.shape, "u1")

    def failing():
        yield array[:2000] // 2
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        writers(kind)(path, failing(), array.shape, "u1")
    with slide.open_slide(path) as opened:
        np.testing.assert_array_equal(opened.rows(0, 2100)[..., 0], array)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", ["tif", "zarr"])
def test_memory_is_that_of_rows_of_tiles_whatever_the_height(tmp_path, kind):
    width, height = 4096, 16384
    strip = np.full((192, width), 7, "u1")

    def strips():
        for top in range(0, height, 192):
            yield strip[: height - top]

    write = writers(kind)
    write(tmp_path / f"warm.{kind}", [strip], strip.shape, "u1")
    tracemalloc.start()
    write(tmp_path / f"a.{kind}", strips(), (height, width), "u1")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * 1024 * width


def written(tmp_path, array, *, labels=False, name="a.zarr"):
    pytest.importorskip("zarr")
    path = tmp_path / name
    slide_write.write_zarr(
        path, cut(array, [192]), array.shape, array.dtype, labels=labels
    )
    return path


@pytest.mark.parametrize(
    ("shape", "dtype"), [*IMAGES, ((2050, 1500), "u4"), ((1024, 1024), "u2")]
)
def test_every_level_is_every_second_pixel_of_the_one_before(
    tmp_path, shape, dtype
):
    array = values(shape, dtype)
    path = written(tmp_path, array)
    import zarr

    group = zarr.open_group(path, mode="r")
    n_levels = max(0, math.ceil(math.log2(max(shape[:2]) / 1024))) + 1
    assert sorted(group.array_keys()) == [str(i) for i in range(n_levels)]
    if array.ndim == 3:
        array = np.moveaxis(array, -1, 0)
    for i in range(n_levels):
        step = 2**i
        np.testing.assert_array_equal(
            group[str(i)][:], array[..., ::step, ::step]
        )
    assert max(group[str(n_levels - 1)].shape[-2:]) <= 1024


def test_the_folder_is_what_ome_zarr_0_4_asks_for(tmp_path):
    """https://ngff.openmicroscopy.org/0.4/#image-layout"""
    path = written(tmp_path, values((2060, 1100, 2), "u2"), name="cells.zarr")
    assert json.loads((path / ".zgroup").read_text()) == {"zarr_format": 2}
    assert json.loads((path / ".zattrs").read_text()) == {
        "multiscales": [
            {
                "version": "0.4",
                "name": "cells",
                "axes": [
                    {"name": "c", "type": "channel"},
                    {"name": "y", "type": "space"},
                    {"name": "x", "type": "space"},
                ],
                "datasets": [
                    {
                        "path": str(i),
                        "coordinateTransformations": [
                            {"type": "scale", "scale": [1.0, 2.0**i, 2.0**i]}
                        ],
                    }
                    for i in range(3)
                ],
                "type": "nearest",
            }
        ]
    }
    for i, shape in enumerate([(2060, 1100), (1030, 550), (515, 275)]):
        array = json.loads((path / str(i) / ".zarray").read_text())
        assert array["zarr_format"] == 2
        assert array["dimension_separator"] == "/"
        assert array["shape"] == [2, *shape]
        assert array["chunks"] == [1, 1024, 1024]
        assert array["dtype"] == "<u2" and array["fill_value"] == 0
        assert array["compressor"]["id"] == "blosc"
    assert (path / "0/1/2/1").is_file()


def test_labels_are_an_ome_label_image(tmp_path):
    labels = values((1100, 900), "u4") * 1000
    path = written(tmp_path, labels, labels=True)
    attributes = json.loads((path / ".zattrs").read_text())
    assert attributes["image-label"] == {"version": "0.4"}
    (multiscale,) = attributes["multiscales"]
    assert [axis["name"] for axis in multiscale["axes"]] == ["y", "x"]
    assert multiscale["datasets"][1]["coordinateTransformations"] == [
        {"type": "scale", "scale": [2.0, 2.0]}
    ]
    with pytest.raises(ValueError, match="whole numbers"):
        slide_write.write_zarr(path, [labels], labels.shape, "f4", labels=True)


def test_an_older_zarr_is_replaced_and_another_folder_is_not(tmp_path):
    old, new = values((60, 50), "u1"), values((70, 40), "u1")
    path = written(tmp_path, old)
    written(tmp_path, new)
    with slide.open_slide(path) as opened:
        np.testing.assert_array_equal(opened.rows(0, 70)[..., 0], new)
    other = tmp_path / "b.zarr"
    other.mkdir()
    (other / "diary.txt").write_text("dear diary")
    with pytest.raises(config.UserError, match="choose another name"):
        written(tmp_path, new, name="b.zarr")
    assert (other / "diary.txt").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr", "b.zarr"]
