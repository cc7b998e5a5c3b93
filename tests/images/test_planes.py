"""Planes and channels of stacks: chosen, merged, and read one by one."""

import io
import tracemalloc

import numpy as np
import pytest
import tifffile
from PIL import Image

from seg import images
from seg.images import about, axes, projection, read, slide

RNG = np.random.default_rng(0)
STACK = RNG.integers(0, 65536, (3, 4, 2, 33, 21), np.uint16)  # T Z C Y X
LAYOUTS = {
    "imagej": {"imagej": True},
    "imagej packed": {"imagej": True, "compression": "zlib"},
    "ome": {"ome": True, "photometric": "minisblack"},
    "ome tiles": {
        "ome": True, "photometric": "minisblack", "tile": (16, 16),
        "compression": "zstd",
    },
    "shaped": {"photometric": "minisblack", "compression": "lzw"},
}  # fmt: skip


def written(path, array, letters="TZCYX", **options):
    options = {"photometric": "minisblack"} | options
    tifffile.imwrite(path, array, metadata={"axes": letters}, **options)
    return path


def zarr_of(path, array, letters, **metadata):
    zarr = pytest.importorskip("zarr")
    group = zarr.create_group(path, zarr_format=2)
    level = group.create_array(
        "0", shape=array.shape, dtype=array.dtype,
        chunks=(*(1 for _ in array.shape[:-2]), 16, 16),
        chunk_key_encoding={"name": "v2", "separator": "/"},
    )  # fmt: skip
    level[...] = array
    multiscale = {
        "version": "0.4",
        "axes": [{"name": letter.lower()} for letter in letters],
        "datasets": [{"path": "0"}],
    }
    group.attrs["multiscales"] = [multiscale | metadata]
    return path


@pytest.fixture(params=[*LAYOUTS, "zarr"])
def stack(request, tmp_path):
    """A file of `STACK`."""
    if request.param == "zarr":
        return zarr_of(tmp_path / "a.zarr", STACK, "TZCYX")
    return written(tmp_path / "a.tif", STACK, **LAYOUTS[request.param])


def by_strips(path, select):
    with slide.open_slide(path, select=select) as opened:
        return np.concatenate([opened.rows(0, 20), opened.rows(20, 33)])


CHOICES = {
    "T=2,Z=3": STACK[2, 3].transpose(1, 2, 0),
    "z=0, t=1, c=1": STACK[1, 0, 1][..., None],
    "T=0,Z=1,C=1+0": STACK[0, 1, ::-1].transpose(1, 2, 0),
    "T=0,Z=max": STACK[0].max(0).transpose(1, 2, 0),
    "T=1,Z=max:1-2,C=0": STACK[1, 1:3, 0].max(0)[..., None],
    "T=mean,Z=2": np.rint(STACK[:, 2].mean(0)).transpose(1, 2, 0),
    "T=max,Z=max,C=1": STACK[:, :, 1].max((0, 1))[..., None],
}


@pytest.mark.parametrize("select", CHOICES)
def test_a_choice_is_what_numpy_takes(stack, select):
    expected = CHOICES[select]
    found = by_strips(stack, select)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, expected)
    if stack.suffix == ".tif":
        np.testing.assert_array_equal(
            read.read_image(stack, select=select), expected
        )


def test_a_stack_becomes_its_planes_by_name(stack):
    said = about.read_about(stack)
    assert said.shape == (33, 21)
    planes = said.planes("a")
    assert len(planes) == 12
    assert planes[0] == ("t000_z000", "T=0,Z=0")
    assert planes[-1] == ("t002_z003", "T=2,Z=3")
    for label, select in planes[::5]:
        t, z = (int(part[1:]) for part in label.split("_"))
        np.testing.assert_array_equal(
            by_strips(stack, select), STACK[t, z].transpose(1, 2, 0)
        )


@pytest.mark.parametrize(
    "select, project, planes",
    [
        ("Z=3,T=0", "", [("t000_z003", "T=0,Z=3")]),
        ("Z=3", "", [(f"t00{t}_z003", f"T={t},Z=3") for t in range(3)]),
        ("Z=3,T=1-2", "", [(f"t00{t}_z003", f"T={t},Z=3") for t in (1, 2)]),
        ("T=1", "max", [("t001", "T=1,Z=max")]),
        ("C=1,Z=0+2", "mean",
         [(f"t00{t}", f"T={t},Z=mean:0+2,C=1") for t in range(3)]),
        ("Z=2,T=0", "max", [("t000_z002", "T=0,Z=2")]),
        ("Z=mean,T=0", "max", [("t000", "T=0,Z=mean")]),
    ],
)  # fmt: skip
def test_what_is_left_open_is_planes(select, project, planes):
    shape = (3, 4, 2, 33, 21)
    assert axes.planes("TZCYX", shape, "a", select, project) == planes
    for plane in planes:  # and what is said of them is understood
        assert axes.planes("TZCYX", shape, "a", plane[1]) == [plane]


def test_other_axes_are_planes_too_and_come_first():
    labels = [p.label for p in axes.planes("ZPTYX", (1, 2, 1001, 9, 9), "a")]
    assert labels[0] == "p000_t0000" and labels[-1] == "p001_t1000"
    assert axes.planes("TZYX", (1, 1, 9, 9), "a", "", "max") == [("", "")]
    assert axes.planes("QYX", (2, 9, 9), "a")[1] == ("q001", "Q=1")


@pytest.mark.parametrize(
    "select, message",
    [
        ("Z", "is not like"),
        ("Z=", "is not like"),
        ("Z=max3", "is not like"),
        ("Z=max:", "is not like"),
        ("Z=median", "is not like"),
        ("Z=5-2", "is not like"),
        ("Z=0-4", "from 0 to 3"),
        ("Z=0-999999", "from 0 to 3"),
        ("Z=0-99999999999", "is not like"),
        ("Z=" + "1" * 5000, "is not like"),
        ("Z=1+5-2", "is not like"),
        ("Z=0-9999999", "more than 1048576 entries; choose fewer"),
        ("+".join(["Z=0-999999"] + ["0-999999"] * 400), "more than 1048576"),
        (",".join(f"{axis}=0-999999" for axis in "ZT"), "more than 1048576"),
        ("Z=2+2", "names Z=2 twice"),
        ("Z=max:3+0-2+1", "names Z=1 twice"),
        ("Z=1,T=0,Z=2", "names Z twice"),
        ("Q=0", "no axis Q; its axes are TZCYX"),
        ("Y=0", "Y and X are the image"),
        ("C=max", "channels are not merged"),
        ("Z=max,T=mean", "max and mean together"),
        ("Z=0-1,T=0", "a stack of 4 planes in depth"),
    ],
)
def test_what_cannot_be_chosen_is_said_in_one_line(tmp_path, select, message):
    path = written(tmp_path / "a.tif", STACK, imagej=True)
    with pytest.raises(images.ImageError, match=message) as caught:
        read.read_image(path, select=select)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 300


def test_a_choice_takes_no_memory_before_it_is_refused():
    tracemalloc.start()
    for select in ("Z=" + "+".join(["0-999999"] * 400), "Z=0-9999999"):
        with pytest.raises(images.ImageError, match="more than"):
            axes.parse(select, "a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6


def test_channels_of_a_picture_are_chosen_as_those_of_a_stack():
    colour = RNG.integers(0, 256, (9, 7, 3), np.uint8)
    content = {kind: io.BytesIO() for kind in ("PNG", "TIFF")}
    for kind, file in content.items():
        Image.fromarray(colour).save(file, kind)
        np.testing.assert_array_equal(
            read.read_image(file.getvalue(), select="C=2+0"), colour[..., 2::-2]
        )
        with pytest.raises(images.ImageError, match="from 0 to 2"):
            read.read_image(file.getvalue(), select="C=3")
    with pytest.raises(images.ImageError, match="here C is S"):
        read.read_image(content["TIFF"].getvalue(), select="C=0,S=1")


def test_a_damaged_plane_spoils_no_other(tmp_path):
    path = written(tmp_path / "a.tif", STACK, imagej=True, compression="zlib")
    with tifffile.TiffFile(path) as file:
        page = file.pages[2 * 8 + 3 * 2]  # T=2, Z=3, C=0
        start, length = page.dataoffsets[0], page.databytecounts[0]
    content = bytearray(path.read_bytes())
    content[start : start + length] = bytes(length)
    path.write_bytes(content)
    np.testing.assert_array_equal(
        read.read_image(path, select="T=2,Z=2"), STACK[2, 2].transpose(1, 2, 0)
    )
    with pytest.raises(images.ImageError, match="corrupt"):
        read.read_image(path, select="T=2,Z=3")


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}])
def test_memory_is_that_of_a_plane_whatever_the_depth(tmp_path, options):
    deep = np.zeros((64, 256, 256), np.uint16)
    deep[40] = 7
    path = written(tmp_path / "a.tif", deep, "ZYX", imagej=True, **options)
    read.read_image(path, select="Z=1")
    for select in ("Z=40", "Z=max", "Z=mean"):
        tracemalloc.start()
        found = read.read_image(path, select=select)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 12 * deep[0].nbytes, select
        assert found.max() == (0 if select == "Z=mean" else 7)


def test_limits_are_those_of_a_plane_not_of_the_stack(tmp_path):
    """337 MB of zeros, 100 times packed: no plane of it is a bomb."""
    path = tmp_path / "a.tif"
    plane = np.zeros((1024, 1024), np.uint8)
    tifffile.imwrite(
        path, (plane for _ in range(321)), shape=(321, 1024, 1024),
        dtype=np.uint8, compression="zlib", metadata={"axes": "ZYX"},
    )  # fmt: skip
    assert read.read_image(path, select="Z=320").shape == (1024, 1024, 1)
    assert read.read_header(path).shape == (1024, 1024)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.float32])
def test_a_projection_is_that_of_numpy(dtype):
    planes = RNG.normal(0, 90, (5, 6, 7)).astype(dtype)
    largest = projection.over("max", planes)
    assert largest.dtype == dtype
    np.testing.assert_array_equal(largest, planes.max(0))
    mean, exact = projection.over("mean", planes), planes.mean(0)
    assert mean.dtype == dtype
    if dtype != np.float32:
        exact = np.rint(exact)
    np.testing.assert_allclose(mean, exact, rtol=1e-6, atol=1e-5)


def test_nan_in_one_plane_is_an_error_of_the_projection(tmp_path):
    planes = np.zeros((3, 5, 5), np.float32)
    planes[1, 2, 2] = np.nan
    path = written(tmp_path / "a.tif", planes, "ZYX")
    for select in ("Z=max", "Z=mean", "Z=1"):
        with pytest.raises(images.ImageError, match="1 values are NaN"):
            read.read_image(path, select=select)
    assert not read.read_image(path, select="Z=2").any()
