import json
import subprocess
import sys

import numpy as np
import pytest
import tifffile

from seg import images
from seg.images import read, slide, slide_zarr

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def low_bands(monkeypatch):
    """Bands of a few rows, so that a small image has several."""
    monkeypatch.setattr(slide_zarr, "_ROWS", 16)


def smooth(shape, dtype=np.uint8):
    """Values that every codec takes and that differ from row to row."""
    steps = RNG.integers(-3, 4, shape).cumsum(0)
    if np.dtype(dtype).kind == "f":
        return (steps / 7).astype(dtype)
    return (steps % 251).astype(dtype)


def by_strips(opened, window=50, step=37):
    """The image out of windows that overlap; they agree where they do."""
    n_rows, n_columns = opened.shape
    out = np.zeros((n_rows, n_columns, opened.n_channels), opened.dtype)
    for top in range(0, n_rows, step):
        strip = opened.rows(top, min(top + window, n_rows))
        assert strip.dtype == opened.dtype
        known = max(0, min(window - step, len(strip))) if top else 0
        np.testing.assert_array_equal(strip[:known], out[top : top + known])
        out[top : top + len(strip)] = strip
    return out


def ome_zarr(path, array, axes, version, **options):
    """An OME-Zarr image by hand: metadata as the two versions have them."""
    zarr = pytest.importorskip("zarr")
    kinds = {"t": "time", "c": "channel"}
    multiscales = [
        {
            "name": "image",
            "axes": [
                {"name": axis, "type": kinds.get(axis, "space")}
                for axis in axes
            ],
            "datasets": [
                {
                    "path": f"level{i}",
                    "coordinateTransformations": [
                        {"type": "scale", "scale": [1.0] * array.ndim}
                    ],
                }
                for i in range(2)
            ],
        }
    ]
    if version == "0.4":
        multiscales[0]["version"] = "0.4"
        attributes, zarr_format = {"multiscales": multiscales}, 2
        options.setdefault(
            "chunk_key_encoding", {"name": "v2", "separator": "/"}
        )
    else:
        attributes = {"ome": {"version": "0.5", "multiscales": multiscales}}
        zarr_format = 3
    group = zarr.create_group(
        path, zarr_format=zarr_format, attributes=attributes
    )
    group.create_array("level0", data=array, **options)
    group.create_array("level1", data=array[..., ::2, ::2], chunks="auto")
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("dtype", ["u1", "u2", ">u2", "f4", "f8", "i2", "?"])
@pytest.mark.parametrize("chunks", [(64, 48), (7, 100), (150, 100), (1, 1000)])
def test_a_zarr_has_the_pixels_that_were_put_in(
    tmp_path, version, dtype, chunks
):
    array = smooth((150, 100), np.dtype(dtype))
    path = ome_zarr(tmp_path / "a.zarr", array, "yx", version, chunks=chunks)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack")
    expected = read.read_image(tmp_path / "a.tif")
    assert not slide.is_slide(path)  # it is small
    np.testing.assert_array_equal(slide.read_image(path), expected)
    with slide.open_slide(path) as opened:
        assert opened.dtype == expected.dtype
        np.testing.assert_array_equal(by_strips(opened), expected)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(
    ("axes", "chunks", "select", "index"),
    [
        ("cyx", (1, 64, 48), "", ()),
        ("cyx", (2, 64, 48), "", ()),
        ("cyx", (2, 64, 48), "C=1", (1,)),
        ("zyx", (2, 64, 48), "Z=2", (2,)),
        ("tczyx", (1, 1, 1, 64, 48), "Z=2,T=1", (1, slice(None), 2)),
        ("tczyx", (2, 2, 2, 64, 48), "Z=2,T=0,C=1", (0, 1, 2)),
        ("tzyx", (1, 1, 64, 48), "T=1,Z=0", (1, 0)),
    ],
)
def test_axes_of_a_zarr_go_by_their_names(
    tmp_path, version, axes, chunks, select, index
):
    sizes = {"t": 2, "c": 3, "z": 4, "y": 150, "x": 100}
    array = smooth(tuple(sizes[axis] for axis in axes), np.uint16)
    path = ome_zarr(tmp_path / "a.zarr", array, axes, version, chunks=chunks)
    expected = array[index]
    if expected.ndim == 2:
        expected = expected[None]
    with slide.open_slide(path, select=select) as opened:
        assert opened.n_channels == len(expected)
        np.testing.assert_array_equal(
            by_strips(opened), np.moveaxis(expected, 0, -1)
        )
    if select and axes != "cyx":
        with pytest.raises(images.ImageError, match=r"select='[TZ]=0'"):
            slide.open_slide(path)


def codecs():
    import zarr

    return {
        "zlib": {"compressors": {"id": "zlib", "level": 1}},
        "blosc": {"compressors": {"id": "blosc", "cname": "lz4"}},
        "none": {"compressors": None},
        "dots": {"chunk_key_encoding": {"name": "v2", "separator": "."}},
        "F": {"order": "F"},
        "gzip": {"compressors": zarr.codecs.GzipCodec()},
        "shards": {"shards": (128, 144)},
        "crc": {"compressors": zarr.codecs.Crc32cCodec()},
        "transposed": {"filters": zarr.codecs.TransposeCodec(order=(1, 0))},
    }


@pytest.mark.parametrize(
    ("version", "codec"),
    [("0.4", codec) for codec in ("zlib", "blosc", "none", "dots", "F")]
    + [("0.5", codec) for codec in ("gzip", "shards", "crc", "transposed")],
)
def test_every_packing_of_a_zarr_is_read(tmp_path, version, codec):
    pytest.importorskip("zarr")
    array = smooth((300, 200), np.uint16)
    path = ome_zarr(
        tmp_path / "a.zarr",
        array,
        "yx",
        version,
        chunks=(64, 48),
        **codecs()[codec],
    )
    with slide.open_slide(path) as opened:
        np.testing.assert_array_equal(by_strips(opened)[..., 0], array)


def test_each_chunk_of_a_zarr_is_read_once(tmp_path, monkeypatch):
    zarr = pytest.importorskip("zarr")
    array = smooth((1000, 300))
    path = ome_zarr(tmp_path / "a.zarr", array, "yx", "0.4", chunks=(128, 128))
    taken = []
    get = zarr.storage.LocalStore.get

    async def counting(self, key, *args, **options):
        taken.append(key)
        return await get(self, key, *args, **options)

    with slide.open_slide(path) as opened:
        monkeypatch.setattr(zarr.storage.LocalStore, "get", counting)
        by_strips(opened, 256, 192)
    assert sorted(taken) == sorted(
        f"level0/{i}/{j}" for i in range(8) for j in range(3)
    )


def test_the_image_inside_a_bioformats2raw_folder_is_found(tmp_path):
    zarr = pytest.importorskip("zarr")
    array = smooth((150, 100))
    path = tmp_path / "a.zarr"
    zarr.create_group(
        path, zarr_format=2, attributes={"bioformats2raw.layout": 3}
    )
    ome_zarr(path / "0", array, "yx", "0.4", chunks=(64, 48))
    for inside in (path, path / "0"):
        assert slide.read_image(inside).shape == (150, 100, 1)
        with slide.open_slide(inside) as opened:
            np.testing.assert_array_equal(by_strips(opened)[..., 0], array)
    ome_zarr(path / "1", array, "yx", "0.4", chunks=(64, 48))
    with pytest.raises(images.ImageError, match="folder of one image inside"):
        slide.open_slide(path)


@pytest.mark.parametrize("codec", ["none", "zlib", "blosc"])
@pytest.mark.parametrize("share", [0.5, 0])
def test_a_chunk_of_a_zarr_cut_off_is_an_error(tmp_path, codec, share):
    pytest.importorskip("zarr")
    path = ome_zarr(
        tmp_path / "a.zarr",
        smooth((150, 100)),
        "yx",
        "0.4",
        chunks=(64, 128),
        **codecs()[codec],
    )
    chunk = path / "level0/1/0"
    content = chunk.read_bytes()
    chunk.write_bytes(content[: int(share * len(content))])
    with slide.open_slide(path) as opened:
        opened.rows(0, 64)
        with pytest.raises(images.ImageError, match="corrupt") as failed:
            opened.rows(60, 70)
        assert str(failed.value).startswith(str(path))
        assert "\n" not in str(failed.value)


def test_folders_that_are_no_ome_zarr_are_refused_in_one_line(tmp_path):
    zarr = pytest.importorskip("zarr")
    array = smooth((150, 100))
    (tmp_path / "empty.zarr").mkdir()
    zarr.create_array(tmp_path / "array.zarr", data=array)
    zarr.create_group(tmp_path / "group.zarr", zarr_format=2)
    ome_zarr(tmp_path / "axes.zarr", array, "zx", "0.4")
    ome_zarr(tmp_path / "few.zarr", array, "y", "0.4")
    ome_zarr(tmp_path / "up.zarr", array, "yx", "0.4")
    ome_zarr(tmp_path / "torn.zarr", array, "yx", "0.4")
    (tmp_path / "torn.zarr/.zattrs").write_text('{"multiscales": [{"da')
    marks = tmp_path / "up.zarr/.zattrs"
    attributes = json.loads(marks.read_text())
    attributes["multiscales"][0]["datasets"][0]["path"] = "../axes.zarr/level0"
    marks.write_text(json.dumps(attributes))
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(images.ImageError) as failed:
            slide.open_slide(path)
        assert str(failed.value).startswith(str(path))
        assert "\n" not in str(failed.value)


def test_a_bomb_of_one_chunk_of_zarr_is_refused(tmp_path):
    zarr = pytest.importorskip("zarr")
    path = ome_zarr(tmp_path / "a.zarr", smooth((15, 10)), "yx", "0.4")
    zarr.create_array(
        path / "level0",
        shape=(2**20, 2**20),
        chunks=(2**16, 2**16),
        dtype="u1",
        zarr_format=2,
        overwrite=True,
    )
    with pytest.raises(images.ImageError, match="save it in smaller tiles"):
        slide.open_slide(path)


def test_without_the_library_zarr_the_remedy_is_named(tmp_path):
    ome_zarr(tmp_path / "a.zarr", smooth((15, 10)), "yx", "0.4")
    program = """
import sys
sys.modules["zarr"] = None
import numpy as np
from seg import config
from seg.images import slide, slide_write
for do in (
    lambda: slide.is_slide("a.zarr"),
    lambda: slide.open_slide("a.zarr"),
    lambda: slide_write.write_zarr(
        "b.zarr", [np.zeros((9, 9))], (9, 9), "u1", labels=False
    ),
):
    try:
        do()
    except config.UserError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all("pip install -e .[slides]" in line for line in lines)


def test_zarr_is_not_loaded_before_it_is_needed():
    program = (
        "import sys; from seg.images import slide, slide_write; "
        "assert 'zarr' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_no_byte_changed_in_a_zarr_breaks_more_than_the_file(tmp_path):
    array = smooth((150, 100))
    path = ome_zarr(tmp_path / "a.zarr", array, "yx", "0.5", chunks=(64, 48))
    files = sorted(file for file in path.rglob("*") if file.is_file())
    for seed in range(100):
        rng = np.random.default_rng(seed)
        file = files[rng.integers(len(files))]
        content = file.read_bytes()
        broken = bytearray(content)
        for position in rng.integers(0, len(broken), 3):
            broken[position] = rng.integers(256)
        file.write_bytes(broken[: rng.integers(1, 2 * len(broken))])
        try:
            with slide.open_slide(path) as opened:
                by_strips(opened)
        except images.ImageError as error:
            assert str(error).startswith(str(path))
            assert "\n" not in str(error)
        file.write_bytes(content)
