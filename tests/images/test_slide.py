import itertools
import pathlib
import tracemalloc

import numpy as np
import pytest
import tifffile
from PIL import Image

from seg import images
from seg.images import about, read, slide, slide_tiff, slide_write

RNG = np.random.default_rng(0)
TILED = {"tile": (64, 48)}
LOW = {"rowsperstrip": 7}


def smooth(shape, dtype=np.uint8):
    """Values that every codec takes and that differ from row to row."""
    steps = RNG.integers(-3, 4, shape).cumsum(0)
    if np.dtype(dtype).kind == "f":
        return (steps / 7).astype(dtype)
    return (steps % 251).astype(dtype)


def write(path, array, **options):
    tifffile.imwrite(path, array, **options)
    return path


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


def assert_like_read(path, select=""):
    """A slide has the very pixels of `read_image`, decoded by bands."""
    expected = read.read_image(path, select=select)
    with slide.open_slide(path, select=select) as opened:
        assert opened.shape == expected.shape[:2]
        assert opened.n_channels == expected.shape[2]
        assert opened.dtype == expected.dtype
        np.testing.assert_array_equal(by_strips(opened), expected)
        assert isinstance(opened._bands, slide_tiff.TiffBands)


@pytest.fixture(autouse=True)
def low_bands(monkeypatch):
    """Bands of a few rows, so that a small image has several."""
    monkeypatch.setattr(slide_tiff, "_ROWS", 16)


CODECS = ("none", "zlib", "lzw", "packbits", "zstd", "lzma")


@pytest.mark.parametrize("layout", [TILED, LOW], ids=["tiled", "stripped"])
@pytest.mark.parametrize("compression", CODECS)
@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "f4", "f8", "i2", "?"])
def test_types_and_compressions_are_those_of_read(
    tmp_path, layout, compression, dtype
):
    array = smooth((150, 100), np.dtype(dtype))
    path = write(
        tmp_path / "a.tif",
        array,
        compression=None if compression == "none" else compression,
        byteorder=">" if dtype == ">u2" else "<",
        **layout,
    )
    assert_like_read(path)


@pytest.mark.parametrize("layout", [TILED, LOW, {}], ids=str)
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("n_channels", [2, 3, 4, 5])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_channels_are_those_of_read(
    tmp_path, layout, planar, n_channels, bigtiff
):
    array = smooth((150, 100, n_channels))
    if planar == "separate":
        array = np.moveaxis(array, -1, 0).copy()
    path = write(
        tmp_path / "a.tif",
        array,
        photometric="rgb" if n_channels in (3, 4) else "minisblack",
        planarconfig=planar,
        bigtiff=bigtiff,
        compression="zlib" if layout else None,
        **layout,
    )
    assert_like_read(path)


@pytest.mark.parametrize("shape", [(64, 48), (128, 96), (65, 49), (150, 1)])
@pytest.mark.parametrize("predictor", [False, True])
def test_the_last_tiles_are_cut_as_the_image_is(tmp_path, shape, predictor):
    if shape == (64, 48):
        pytest.skip("one tile is the whole image")
    array = smooth(shape, np.uint16)
    path = write(
        tmp_path / "a.tif",
        array,
        compression="zlib",
        predictor=predictor,
        **TILED,
    )
    assert_like_read(path)


@pytest.mark.parametrize(
    ("axes", "shape", "select"),
    [
        ("CYX", (4, 150, 100), ""),
        ("CYX", (4, 150, 100), "C=2"),
        ("YXC", (150, 100, 2), ""),
        ("ZYX", (3, 150, 100), "Z=1"),
        ("TZCYX", (2, 3, 2, 150, 100), "Z=2,T=1"),
        ("TCZYX", (2, 2, 3, 150, 100), "Z=2,T=0"),
        ("TCZYX", (2, 2, 3, 150, 100), "Z=2,T=0,C=1"),
        ("CYXS", (2, 150, 100, 3), ""),
    ],
)
@pytest.mark.parametrize("layout", [TILED, LOW, {}], ids=str)
@pytest.mark.parametrize("kind", ["tif", "ome.tif"])
def test_axes_go_by_their_names(tmp_path, axes, shape, select, layout, kind):
    if kind == "ome.tif" and axes == "YXC":
        pytest.skip("not in OME")
    path = write(
        tmp_path / f"a.{kind}",
        smooth(shape, np.uint8 if "S" in axes else np.uint16),
        photometric="rgb" if "S" in axes else "minisblack",
        metadata={"axes": axes},
        planarconfig="contig" if axes == "YXC" else None,
        compression="zlib" if layout else None,
        **layout,
    )
    assert_like_read(path, select)


def test_an_imagej_hyperstack_is_read_from_its_one_page(tmp_path):
    path = write(
        tmp_path / "a.tif",
        smooth((3, 2, 150, 100), np.uint16),
        imagej=True,
        metadata={"axes": "ZCYX"},
    )
    assert_like_read(path, "Z=1")


@pytest.mark.parametrize("layout", [TILED, LOW], ids=["tiled", "stripped"])
def test_palettes_inverted_greys_and_bits_are_resolved(tmp_path, layout):
    codes = smooth((150, 100))
    palette = RNG.integers(0, 2**16, (3, 256), np.uint16)
    assert_like_read(
        write(
            tmp_path / "palette.tif",
            codes,
            photometric="palette",
            colormap=palette,
            compression="zlib",
            **layout,
        )
    )
    assert_like_read(
        write(tmp_path / "white.tif", codes, photometric="miniswhite", **layout)
    )


def test_jpeg_tiles_of_a_scanner_are_decoded_by_rows(tmp_path):
    path = write(
        tmp_path / "a.tif",
        smooth((200, 180, 3)),
        photometric="ycbcr",
        compression="jpeg",
        subsampling=(2, 2),
        tile=(64, 64),
    )
    assert_like_read(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(tmp_path, orientation):
    path = write(
        tmp_path / "a.tif",
        smooth((150, 100)),
        compression="zlib",
        extratags=[(274, "H", 1, orientation, True)],
        **TILED,
    )
    expected = read.read_image(path)
    with slide.open_slide(path) as opened:
        assert opened.shape == expected.shape[:2]
        np.testing.assert_array_equal(by_strips(opened), expected)


def test_level_0_of_a_pyramid_is_read(tmp_path):
    array = smooth((300, 200))
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(array, subifds=1, **TILED)
        tif.write(array[::2, ::2], subfiletype=1, **TILED)
    assert_like_read(path)


def test_tiles_left_out_are_what_read_makes_of_them(tmp_path):
    def tiles():
        for i in range(9):
            yield None if i % 2 else smooth((64, 48))

    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, tiles(), shape=(192, 144), dtype="u1", compression="zlib", **TILED
    )
    assert_like_read(path)


@pytest.mark.parametrize("value", [-1, 65536])
def test_whole_numbers_of_other_types_keep_their_values(tmp_path, value):
    array = smooth((150, 100), np.int32)
    assert_like_read(write(tmp_path / "a.tif", array, **TILED))
    array[149, 99] = value
    assert_like_read(write(tmp_path / "b.tif", array, **TILED))


@pytest.mark.parametrize("kind", ["png", "jpg", "tif"])
def test_what_has_no_bands_is_read_at_once(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    Image.fromarray(smooth((90, 70, 3))).save(path)
    with slide.open_slide(path) as opened:
        np.testing.assert_array_equal(by_strips(opened), read.read_image(path))


def test_the_limits_of_reading_at_once_hold(tmp_path, monkeypatch):
    path = write(
        tmp_path / "a.tif",
        smooth((90, 70)),
        compression="zlib",
        rowsperstrip=90,
    )
    monkeypatch.setattr(read, "MAX_PIXELS", 6000)
    with pytest.raises(images.ImageError, match="at most 0 are read"):
        slide.open_slide(path)
    path = write(tmp_path / "a.tif", smooth((90, 70)), **TILED)
    with slide.open_slide(path) as opened:  # by strips there is none
        assert opened.shape == (90, 70)


class Counted:
    """Which chunks of a TIFF were decoded, how many times."""

    def __init__(self, monkeypatch):
        self.n_decoded = {}
        decode = tifffile.TiffPage.decode.func

        def counting(page):
            inner = decode(page)

            def decode_one(data, index, **options):
                self.n_decoded[index] = self.n_decoded.get(index, 0) + 1
                return inner(data, index, **options)

            return decode_one

        counted = property(counting)
        monkeypatch.setattr(tifffile.TiffPage, "decode", counted)


@pytest.mark.parametrize("height", [48, 256, 1024])
def test_each_tile_is_decoded_once_and_only_where_rows_touch_it(
    tmp_path, monkeypatch, height
):
    array = smooth((2048, 300))
    path = write(
        tmp_path / "a.tif", array, tile=(height, 128), compression="zlib"
    )
    counted = Counted(monkeypatch)
    with slide.open_slide(path) as opened:
        by_strips(opened, 256, 192)
    n_tiles = -(-2048 // height) * 3
    assert counted.n_decoded == dict.fromkeys(range(n_tiles), 1)
    counted.n_decoded.clear()
    with slide.open_slide(path) as opened:
        np.testing.assert_array_equal(
            opened.rows(1110, 1120)[..., 0], array[1110:1120]
        )
    assert len(counted.n_decoded) == 3


def test_memory_is_a_few_rows_of_tiles_whatever_the_height(tmp_path):
    def tiles():
        for _ in range(16 * 4):
            yield smooth((256, 256))

    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        tiles(),
        shape=(4096, 1024),
        dtype="u1",
        tile=(256, 256),
        compression="zlib",
    )
    tracemalloc.start()
    with slide.open_slide(path) as opened:
        for top in range(0, 4096, 192):
            opened.rows(top, min(top + 256, 4096))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * 256 * 1024


def test_a_bomb_in_one_row_of_tiles_is_refused_before_it_goes_off(tmp_path):
    path = write(
        tmp_path / "a.tif",
        smooth((32, 32)),
        compression="zlib",
        tile=(16, 16),
        metadata=None,
    )
    with tifffile.TiffFile(path, mode="r+") as tif:
        tags = tif.pages[0].tags
        for tag in ("ImageWidth", "ImageLength"):
            tags[tag].overwrite(2**16)
        for tag in ("TileWidth", "TileLength"):
            tags[tag].overwrite(2**15)
    with pytest.raises(images.ImageError, match="save it in smaller tiles"):
        slide.open_slide(path)


@pytest.mark.parametrize("layout", [TILED, LOW], ids=["tiled", "stripped"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd", "jpeg"])
def test_what_is_cut_off_is_an_error_not_zeros(tmp_path, layout, compression):
    layout = {"tile": (64, 48)} if layout is TILED else {"rowsperstrip": 8}
    path = write(
        tmp_path / "a.tif",
        smooth((150, 100)),
        compression=compression,
        **layout,
    )
    with tifffile.TiffFile(path) as tif:
        offsets = tif.pages[0].dataoffsets
        counts = tif.pages[0].databytecounts
    content = path.read_bytes()
    path.write_bytes(content[: offsets[-1] + counts[-1] // 2])
    with pytest.raises(images.ImageError, match="truncated"):
        slide.open_slide(path)
    assert not slide.is_slide(path)


@pytest.mark.parametrize("compression", ["zlib", "zstd", "jpeg"])
def test_a_damaged_tile_is_an_error_where_it_is_read(tmp_path, compression):
    path = write(
        tmp_path / "a.tif",
        smooth((192, 100)),
        compression=compression,
        tile=(64, 112),
    )
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages[0].dataoffsets[1]
        count = tif.pages[0].databytecounts[1]
    content = bytearray(path.read_bytes())
    content[offset : offset + count] = bytes(count)
    path.write_bytes(content)
    with slide.open_slide(path) as opened:
        opened.rows(0, 64)
        with pytest.raises(images.ImageError, match="corrupt") as failed:
            opened.rows(60, 70)
        assert str(failed.value).startswith(str(path))
        assert "\n" not in str(failed.value)
        opened.rows(128, 192)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_file_cut_while_it_is_read_is_an_error(tmp_path, compression):
    path = write(
        tmp_path / "a.tif",
        smooth((300, 100)),
        compression=compression,
        **TILED,
    )
    with slide.open_slide(path) as opened:
        opened.rows(0, 10)
        with open(path, "r+b") as file:
            file.truncate(2000)
        with pytest.raises(images.ImageError, match="truncated"):
            opened.rows(200, 300)


def test_no_byte_changed_breaks_more_than_the_file(tmp_path):
    path = write(
        tmp_path / "a.tif", smooth((150, 100)), compression="zlib", **TILED
    )
    content = path.read_bytes()
    for seed in range(150):
        rng = np.random.default_rng(seed)
        broken = bytearray(content)
        for position in rng.integers(0, len(broken), 3):
            broken[position] = rng.integers(256)
        broken = broken[: rng.integers(1, 2 * len(broken))]
        path.write_bytes(broken)
        try:
            with slide.open_slide(path) as opened:
                by_strips(opened)
        except images.ImageError as error:
            assert str(error).startswith(str(path))
            assert "\n" not in str(error)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_found_by_their_rows(tmp_path, bad):
    array = smooth((150, 100), np.float32)
    array[130, 5] = bad
    path = write(tmp_path / "a.tif", array, **TILED)
    with slide.open_slide(path) as opened:
        opened.rows(0, 100)
        with pytest.raises(images.ImageError, match="rows 128 to 149: 1 value"):
            opened.rows(100, 150)


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (np.zeros((150, 100), np.complex64), {}, "complex64"),
        (
            np.zeros((150, 100, 4), np.uint8),
            {"photometric": "separated"},
            "CMYK",
        ),
        (
            np.zeros((3, 150, 100), np.uint8),
            {"metadata": {"axes": "ZYX"}, "photometric": "minisblack"},
            "select='Z=0'",
        ),
    ],
)
def test_what_read_refuses_is_refused_at_the_door(
    tmp_path, array, options, message
):
    path = write(tmp_path / "a.tif", array, **TILED, **options)
    with pytest.raises(images.ImageError, match=message):
        slide.open_slide(path)


def test_what_is_no_image_is_refused(tmp_path):
    cases = {"none.tif": None, "empty.tif": b"", "text.tif": b"hello there"}
    for name, content in cases.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(images.ImageError, match=name):
            slide.open_slide(path)
        assert not slide.is_slide(path)
    with pytest.raises(images.ImageError, match=r"directory"):
        slide.open_slide(tmp_path)
    assert not slide.is_slide(tmp_path)


def test_rows_that_are_not_there_are_a_mistake_of_the_caller(tmp_path):
    path = write(tmp_path / "a.tif", smooth((150, 100)), **TILED)
    with slide.open_slide(path) as opened:
        for top, bottom in ((-1, 5), (5, 5), (6, 5), (0, 151)):
            with pytest.raises(ValueError, match="of 150"):
                opened.rows(top, bottom)


def test_a_slide_is_large_and_has_bands(tmp_path, monkeypatch):
    tiled = write(tmp_path / "a.tif", smooth((150, 100)), **TILED)
    whole = write(
        tmp_path / "b.tif",
        smooth((150, 100)),
        compression="zlib",
        rowsperstrip=150,
    )
    picture = tmp_path / "c.png"
    Image.fromarray(smooth((150, 100))).save(picture)
    assert not slide.is_slide(tiled)
    monkeypatch.setattr(slide, "LARGE", 14_999)
    assert slide.is_slide(tiled)
    assert not slide.is_slide(whole)
    assert not slide.is_slide(picture)
    monkeypatch.setattr(slide, "LARGE", 15_000)
    assert not slide.is_slide(tiled)


def test_a_zarr_is_a_slide_where_a_plane_of_it_is_large(tmp_path, monkeypatch):
    pytest.importorskip("zarr")
    path, pixels = tmp_path / "a.zarr", smooth((150, 100))
    slide_write.write_zarr(path, [pixels], pixels.shape, "u1", labels=False)
    assert not slide.is_slide(path) and not about.read_about(path).by_strips
    np.testing.assert_array_equal(slide.read_image(path), pixels[..., None])
    monkeypatch.setattr(slide, "LARGE", 14_999)
    assert slide.is_slide(path) and about.read_about(path).by_strips
    monkeypatch.setattr(read, "MAX_PIXELS", 14_999)
    with pytest.raises(images.TooLargeError, match="zarr"):
        slide.read_image(path)


def test_slides_open_side_by_side_and_close_in_any_order(tmp_path):
    array = smooth((150, 100))
    paths = [
        write(tmp_path / f"{i}.tif", array + np.uint8(i), **TILED)
        for i in range(3)
    ]
    opened = [slide.open_slide(path) for path in paths]
    for i, one in itertools.chain(enumerate(opened), enumerate(opened)):
        np.testing.assert_array_equal(
            one.rows(70, 90)[..., 0], array[70:90] + np.uint8(i)
        )
    for one in opened:
        one.close()
    pathlib.Path(paths[0]).unlink()


def draw(rng):
    """A TIFF at random: (array, options of tifffile)."""
    height, width = rng.integers(40, 300, 2)
    n_channels = int(rng.integers(1, 5))
    dtype = rng.choice(["u1", "u2", "i2", "u4", "f4", "f2"])
    options = {
        "byteorder": rng.choice(["<", ">"]),
        "bigtiff": bool(rng.integers(2)),
        "compression": rng.choice(["zlib", "lzw", "zstd", "packbits", ""]),
        "photometric": "minisblack",
    }
    options["compression"] = str(options["compression"]) or None
    packed = options["compression"] in ("zlib", "lzw", "zstd")
    options["predictor"] = bool(packed and rng.integers(2) and dtype != "f2")
    if rng.integers(2):
        options["tile"] = tuple(int(n) for n in 16 * rng.integers(1, 9, 2))
    else:
        options["rowsperstrip"] = int(rng.integers(1, 40))
    shape = (height, width)
    if n_channels > 1:
        planar = bool(rng.integers(2))
        options["planarconfig"] = "separate" if planar else "contig"
        shape = (n_channels, *shape) if planar else (*shape, n_channels)
    return smooth(shape, np.dtype(str(dtype))), options


@pytest.mark.parametrize("seed", range(60))
def test_any_tiff_is_read_as_read_reads_it(tmp_path, seed):
    array, options = draw(np.random.default_rng(seed))
    path = write(tmp_path / "a.tif", array, **options)
    expected = read.read_image(path)
    with slide.open_slide(path) as opened:
        assert opened.dtype == expected.dtype
        np.testing.assert_array_equal(by_strips(opened), expected)


def test_tiles_that_are_deep_are_read_at_the_depth_that_is_chosen(tmp_path):
    path = write(
        tmp_path / "a.tif",
        smooth((5, 150, 100)),
        volumetric=True,
        tile=(2, 64, 48),
        compression="zlib",
        metadata={"axes": "ZYX"},
    )
    for z in range(5):
        assert_like_read(path, f"Z={z}")
