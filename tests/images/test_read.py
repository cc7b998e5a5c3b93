import functools
import io
import json
import pathlib
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from seg import images
from seg.images import read

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (13, 9), np.uint8)
COLOUR = RNG.integers(0, 256, (13, 9, 3), np.uint8)
DEEP = RNG.integers(0, 65536, (13, 9), np.uint16)


def pillow(array, kind="PNG", mode=None, **options):
    file = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(file, kind, **options)
    return file.getvalue()


def tiff(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def chunk(kind, content):
    tail = zlib.crc32(kind + content)
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", tail)
    )


def png(width, height, depth, kind, rows, *extra):
    """A PNG by hand, for what Pillow does not write."""
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + b"".join(extra)
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("array", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_what_is_stored_is_what_is_read(array, kind):
    image = read.read_image(pillow(array, kind))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, array.reshape(13, 9, -1))


def test_jpeg_is_read_as_pillow_reads_it():
    content = pillow(COLOUR, "JPEG", quality=90)
    expected = np.asarray(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(read.read_image(content), expected)
    assert read.read_header(content).lossy
    assert not read.read_header(pillow(COLOUR)).lossy


def test_a_path_and_bytes_are_the_same(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(pillow(GREY))
    np.testing.assert_array_equal(
        read.read_image(path), read.read_image(path.read_bytes())
    )


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_stay(kind):
    image = read.read_image(pillow(DEEP, kind))
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image[..., 0], DEEP)


def deep_colour_png():
    colour = RNG.integers(0, 65536, (5, 4, 3), np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colour)
    return colour, png(4, 5, 16, 2, rows)


def test_sixteen_bits_of_colour_are_not_cut_to_eight():
    pytest.importorskip("imagecodecs")
    colour, content = deep_colour_png()
    np.testing.assert_array_equal(read.read_image(content), colour)


def test_palettes_are_colours_of_images_and_codes_of_masks():
    codes = RNG.integers(0, 4, (13, 9), np.uint8)
    palette = RNG.integers(0, 256, (256, 3), np.uint8)
    image = Image.fromarray(codes)
    image.putpalette(palette.tobytes())
    for kind in ("PNG", "BMP", "TIFF"):
        file = io.BytesIO()
        image.save(file, kind)
        np.testing.assert_array_equal(
            read.read_image(file.getvalue()), palette[codes]
        )
        np.testing.assert_array_equal(read.read_mask(file.getvalue()), codes)


def test_a_palette_with_transparency_is_its_colours():
    codes = np.array([[0, 1], [1, 0]], np.uint8)
    image = Image.fromarray(codes)
    image.putpalette(bytes([9, 8, 7, 1, 2, 3]))
    file = io.BytesIO()
    image.save(file, "PNG", transparency=b"\x00\x80")
    np.testing.assert_array_equal(
        read.read_image(file.getvalue())[0], [[9, 8, 7], [1, 2, 3]]
    )


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_one_bit_becomes_0_and_255(kind):
    bits = GREY > 127
    expected = np.where(bits, 255, 0)
    content = pillow(np.asarray(bits), kind)
    np.testing.assert_array_equal(read.read_image(content)[..., 0], expected)
    np.testing.assert_array_equal(read.read_mask(content), expected)


@pytest.mark.parametrize("depth", [2, 4])
def test_codes_of_a_few_bits_are_not_stretched_in_masks(depth):
    codes = np.array([[0, 1, 2, 3], [3, 2, 1, 0]])
    packed = b""
    for row in codes:
        bits = "".join(f"{code:0{depth}b}" for code in row)
        packed += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    content = png(4, 2, depth, 0, packed)
    np.testing.assert_array_equal(read.read_mask(content), codes)
    assert read.read_image(content).max() == 3 * (85 if depth == 2 else 17)


def test_alpha_is_dropped():
    rgba = np.dstack([COLOUR, GREY])
    np.testing.assert_array_equal(read.read_image(pillow(rgba)), COLOUR)
    grey = np.dstack([GREY, GREY.T.reshape(13, 9)])
    np.testing.assert_array_equal(read.read_image(pillow(grey))[..., 0], GREY)
    for extra in ("unassalpha", "unspecified"):
        content = tiff(rgba, photometric="rgb", extrasamples=[extra])
        np.testing.assert_array_equal(read.read_image(content), COLOUR)
    content = tiff(
        grey, photometric="minisblack", extrasamples=["unassalpha"],
        planarconfig="contig",
    )  # fmt: skip
    np.testing.assert_array_equal(read.read_image(content)[..., 0], GREY)


def test_cmyk_jpeg_is_rgb():
    content = pillow(COLOUR, "JPEG", mode="CMYK")
    assert read.read_image(content).shape == (13, 9, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_rotation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    if kind == "TIFF":
        tag = (0x0112, "H", 1, orientation, True)
        content = tiff(GREY, extratags=[tag])
    else:
        content = pillow(GREY, kind, exif=exif)
    stored = Image.open(io.BytesIO(content))
    turned = np.asarray(
        stored if kind == "TIFF" else ImageOps.exif_transpose(stored)
    )
    np.testing.assert_array_equal(read.read_image(content)[..., 0], turned)
    np.testing.assert_array_equal(read.read_mask(content), turned)
    assert read.read_header(content)[:2] == (turned.shape, orientation)


def test_rotation_behind_the_pixels_of_a_png_is_found():
    exif = Image.Exif()
    exif[0x0112] = 6
    rows = b"".join(b"\0" + row.tobytes() for row in GREY)
    late = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    content = png(9, 13, 8, 0, rows, late)
    assert read.read_header(content).shape == (9, 13)
    np.testing.assert_array_equal(
        read.read_image(content)[..., 0], np.rot90(GREY, -1)
    )


@pytest.mark.parametrize(
    "options",
    [
        {"imagej": True, "metadata": {"axes": "CYX"}},
        {"ome": True, "metadata": {"axes": "CYX"}},
        {"metadata": {"axes": "CYX"}},
        {"ome": True, "metadata": {"axes": "CYX"}, "compression": "zlib"},
        {"photometric": "rgb", "planarconfig": "separate"},
    ],
)
def test_channels_go_last_whatever_their_order_in_the_file(options):
    stack = np.moveaxis(COLOUR.astype(np.uint16), -1, 0)
    options = {"photometric": "minisblack"} | options
    np.testing.assert_array_equal(
        read.read_image(tiff(stack, **options)), COLOUR
    )


def test_channels_of_a_few_columns_are_told_by_name_not_by_size():
    narrow = RNG.integers(0, 256, (2, 3, 4), np.uint8)  # C Y X
    content = tiff(narrow, metadata={"axes": "CYX"}, photometric="minisblack")
    np.testing.assert_array_equal(
        read.read_image(content), np.moveaxis(narrow, 0, -1)
    )


def test_a_stack_is_refused_and_a_plane_can_be_chosen():
    stack = RNG.integers(0, 9, (4, 2, 5, 6), np.uint8)
    content = tiff(stack, imagej=True, metadata={"axes": "ZCYX"})
    with pytest.raises(images.ImageError, match=r"stack of 4 .*select='Z=0'"):
        read.read_image(content, name="deep.tif")
    np.testing.assert_array_equal(
        read.read_image(content, select="Z=3"), np.moveaxis(stack[3], 0, -1)
    )
    np.testing.assert_array_equal(
        read.read_image(content, select="z=3, c=1")[..., 0], stack[3, 1]
    )
    for select, what in (
        ("Z=4", "from 0 to 3"),
        ("T=0,Z=0", "no axis T"),
        ("Z", "not like"),
    ):
        with pytest.raises(images.ImageError, match=what):
            read.read_image(content, select=select)
    with pytest.raises(images.ImageError, match="has no axes"):
        read.read_image(pillow(GREY), select="Z=0")


def test_pages_without_a_meaning_are_a_stack():
    content = tiff(
        np.zeros((5, 8, 8), np.uint8), metadata=None, photometric="minisblack"
    )
    with pytest.raises(images.ImageError, match="stack of 5 pages"):
        read.read_image(content)


def test_several_images_are_refused_but_a_pyramid_is_one():
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(np.zeros((32, 32), np.uint8), metadata=None)
        writer.write(np.zeros((30, 30), np.uint8), metadata=None)
    with pytest.raises(images.ImageError, match="2 images in one TIFF"):
        read.read_image(file.getvalue())
    pyramid = io.BytesIO()
    full = RNG.integers(0, 256, (64, 64), np.uint8)
    with tifffile.TiffWriter(pyramid) as writer:
        writer.write(full, tile=(16, 16), subifds=1)
        writer.write(full[::2, ::2], tile=(16, 16), subfiletype=1)
    np.testing.assert_array_equal(
        read.read_image(pyramid.getvalue())[..., 0], full
    )


OME = """<?xml version="1.0" encoding="UTF-8"?>
<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"
 UUID="urn:uuid:{own}"><Image ID="Image:0"><Pixels ID="Pixels:0"
 DimensionOrder="XYCZT" Type="uint8" SizeX="9" SizeY="13" SizeC="2" SizeZ="1"
 SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>
 <Channel ID="Channel:0:1" SamplesPerPixel="1"/>
 <TiffData FirstC="0" IFD="0" PlaneCount="1">
 <UUID FileName="a.ome.tif">urn:uuid:{own}</UUID></TiffData>
 <TiffData FirstC="1" IFD="0" PlaneCount="1">
 <UUID FileName="secret.ome.tif">urn:uuid:{other}</UUID></TiffData>
</Pixels></Image></OME>"""


def test_an_ome_tiff_cannot_make_us_open_another_file(tmp_path):
    ids = {"own": "1" * 32, "other": "2" * 32}
    swapped = {"own": ids["other"], "other": ids["own"]}
    for name, of in (("a.ome.tif", ids), ("secret.ome.tif", swapped)):
        tifffile.imwrite(
            tmp_path / name, GREY, description=OME.format(**of), metadata=None
        )
    assert tifffile.imread(tmp_path / "a.ome.tif").shape == (2, 13, 9)
    image = read.read_image(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(image[..., 0], GREY)


def test_a_plane_that_is_not_there_is_not_made_up(tmp_path):
    text = OME.format(own="1" * 32, other="2" * 32)
    first = text.index('<TiffData FirstC="1"')
    text = text[:first] + text[text.index("</Pixels>") :]
    content = tiff(GREY, description=text, metadata=None)
    with pytest.raises(images.ImageError, match="pages are missing"):
        read.read_image(content)


def test_white_is_zero_is_inverted_for_images_and_kept_for_masks():
    content = tiff(GREY, photometric="miniswhite")
    np.testing.assert_array_equal(read.read_image(content)[..., 0], 255 - GREY)
    np.testing.assert_array_equal(read.read_mask(content), GREY)


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [
        (np.array([[0, 65535]], np.uint32), np.uint16),
        (np.array([[0, 65536]], np.uint32), np.float32),
        (np.array([[0, 4095]], np.int16), np.uint16),
        (np.array([[-1, 4095]], np.int16), np.float32),
        (np.array([[0.25, -7]], np.float64), np.float32),
        (np.array([[0.25, -7]], np.float16), np.float32),
        (np.array([[0, 300]], ">u2"), np.uint16),
    ],
)
def test_other_types_become_the_nearest_of_three(stored, dtype):
    image = read.read_image(tiff(stored))
    assert image.dtype == dtype and image.dtype.isnative
    np.testing.assert_array_equal(image[..., 0], stored)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_are_no_numbers_are_refused_by_name(bad):
    content = tiff(np.array([[0.0, bad]]))
    with pytest.raises(images.ImageError, match=r"^x\.tif: 1 values are NaN"):
        read.read_image(content, name="x.tif")


def test_complex_numbers_and_cmyk_tiffs_are_refused():
    with pytest.raises(images.ImageError, match="complex"):
        read.read_image(tiff(np.ones((2, 2), np.complex64)))
    with pytest.raises(images.ImageError, match="CMYK"):
        read.read_image(
            tiff(np.zeros((4, 4, 4), np.uint8), photometric="separated")
        )


# Masks


def test_a_mask_of_equal_channels_is_one():
    grey = np.dstack([GREY] * 3)
    np.testing.assert_array_equal(read.read_mask(pillow(grey)), GREY)
    rgba = np.dstack([grey, np.full_like(GREY, 255)])
    np.testing.assert_array_equal(read.read_mask(pillow(rgba)), GREY)


def test_masks_in_colours_in_alpha_or_of_fractions_are_refused():
    with pytest.raises(images.ImageError, match="in colours"):
        read.read_mask(pillow(COLOUR))
    alpha = np.dstack([np.zeros_like(COLOUR), GREY])
    with pytest.raises(images.ImageError, match="alpha channel"):
        read.read_mask(pillow(alpha))
    with pytest.raises(images.ImageError, match="fractions"):
        read.read_mask(tiff(np.array([[0.5]])))


def test_a_mask_keeps_large_ids():
    ids = np.array([[0, 70000], [2**31 - 1, 5]], np.uint32)
    np.testing.assert_array_equal(read.read_mask(tiff(ids)), ids)
    np.testing.assert_array_equal(
        read.read_mask(tiff(ids.astype(np.float64))), ids
    )


def test_colour_noise_of_a_jpeg_mask_is_no_colour():
    black_white = np.zeros((64, 64), np.uint8)
    black_white[16:40, 20:50] = 255
    content = pillow(np.dstack([black_white] * 3), "JPEG", quality=60)
    mask = read.read_mask(content)
    np.testing.assert_array_equal(mask > 127, black_white > 0)


# Faults


@functools.cache
def bomb_png():
    """900 megapixels in about 100 kB."""
    line = b"\0" + bytes(30000 // 8)
    return png(30000, 30000, 1, 0, line * 30000)


@functools.cache
def bomb_tiff():
    """400 MB in one strip of about 400 kB."""
    strip = zlib.compress(bytes(400_000_000), 1)
    first = tiff(np.zeros((8, 8), np.uint8), compression="zlib")
    with tifffile.TiffFile(io.BytesIO(first)) as file:
        tags = file.pages[0].tags
        patches = {
            tags["ImageWidth"].valueoffset: 20000,
            tags["ImageLength"].valueoffset: 20000,
            tags["RowsPerStrip"].valueoffset: 20000,
            tags["StripOffsets"].valueoffset: len(first),
            tags["StripByteCounts"].valueoffset: len(strip),
        }
        sizes = {
            tags[k].valueoffset: tags[k].dtype.itemsize
            if hasattr(tags[k].dtype, "itemsize")
            else (2 if tags[k].dtype == 3 else 4)
            for k in (
                "ImageWidth", "ImageLength", "RowsPerStrip", "StripOffsets",
                "StripByteCounts",
            )
        }  # fmt: skip
    content = bytearray(first)
    for offset, value in patches.items():
        content[offset : offset + sizes[offset]] = value.to_bytes(
            sizes[offset], "little"
        )
    return bytes(content) + strip


@pytest.mark.parametrize("make", [bomb_png, bomb_tiff])
@pytest.mark.parametrize(
    "reader", [read.read_image, read.read_mask, read.read_header]
)
def test_bombs_are_refused_before_they_go_off(make, reader):
    content = make()
    assert len(content) < 2_000_000
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(images.ImageError, match=r"megapixels|bomb"):
        reader(content, name="bomb")
    assert time.perf_counter() - start < 1
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_what_is_large_but_honest_is_not_a_bomb():
    read._check_size("a", 16384 * 16384, 2**28, 1000)
    read._check_size("a", 12000 * 12000, 3 * 12000 * 12000, 40_000_000)
    with pytest.raises(images.ImageError, match="megapixels"):
        read._check_size("a", 16384 * 16385, 2**28, 2**28)


FILES = {
    "grey.png": pillow(GREY),
    "rgb.png": pillow(COLOUR),
    "grey.jpg": pillow(GREY, "JPEG"),
    "grey.bmp": pillow(GREY, "BMP"),
    "plain.tif": tiff(GREY),
    "strips.tif": tiff(GREY, compression="zlib", rowsperstrip=4),
    "tiles.tif": tiff(
        np.tile(GREY, (3, 4)), compression="zlib", tile=(16, 16)
    ),
    "pillow.tif": pillow(GREY, "TIFF"),
    "imagej.tif": tiff(
        np.stack([GREY] * 3), imagej=True, metadata={"axes": "CYX"}
    ),
    "ome.tif": tiff(
        np.stack([GREY] * 3), ome=True, metadata={"axes": "CYX"},
        photometric="minisblack",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_refused_or_whole(name):
    content = FILES[name]
    whole = read.read_image(content)
    step = max(1, len(content) // 80)
    for length in range(0, len(content), step):
        try:
            image = read.read_image(content[:length], name=name)
        except images.ImageError as error:
            assert str(error).startswith(f"{name}: ")
            assert "\n" not in str(error) and "; " in str(error)
        else:
            np.testing.assert_array_equal(image, whole)


@pytest.mark.parametrize("name", FILES)
def test_a_corrupt_file_raises_nothing_but_image_errors(name):
    rng = np.random.default_rng(1)
    for _ in range(60):
        content = bytearray(FILES[name])
        content[rng.integers(min(400, len(content)))] = rng.integers(256)
        try:
            read.read_image(bytes(content), name=name)
        except images.ImageError as error:
            assert str(error).startswith(f"{name}: ")
            assert "\n" not in str(error)


def test_what_is_no_image_is_refused_by_its_bytes(tmp_path):
    for name, content, what in (
        ("empty.png", b"", "empty"),
        ("text.png", b"hello, world", "neither PNG"),
        ("page.tif", b"<html></html>", "neither PNG"),
        ("gif.png", b"GIF89a" + bytes(100), "neither PNG"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(images.ImageError, match=what) as caught:
            read.read_image(path)
        assert str(caught.value).startswith(str(path))
    with pytest.raises(images.ImageError, match="no such file"):
        read.read_image(tmp_path / "absent.png")
    with pytest.raises(images.ImageError, match="directory"):
        read.read_image(tmp_path)


def test_an_animation_is_refused():
    file = io.BytesIO()
    Image.fromarray(GREY).save(
        file, "PNG", save_all=True, append_images=[Image.fromarray(255 - GREY)]
    )
    with pytest.raises(images.ImageError, match="animated"):
        read.read_image(file.getvalue())


def test_tifffile_still_logs_for_others(caplog):
    cut = FILES["imagej.tif"][:-50]
    with pytest.raises(images.ImageError, match="truncated"):
        read.read_image(cut)
    assert not caplog.records
    with tifffile.TiffFile(io.BytesIO(cut)) as file:
        len(file.pages)
    assert caplog.records


def test_without_imagecodecs(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "lzw.tif", compression="tiff_lzw")
    bits = Image.fromarray(GREY > 127)
    bits.save(tmp_path / "fax.tif", compression="group4")
    tifffile.imwrite(tmp_path / "zlib.tif", DEEP, compression="zlib")
    stack = np.stack([GREY] * 3)
    pytest.importorskip("imagecodecs")
    tifffile.imwrite(
        tmp_path / "stack.tif", stack, compression="lzw",
        photometric="minisblack", metadata={"axes": "CYX"},
    )  # fmt: skip
    (tmp_path / "deep.png").write_bytes(deep_colour_png()[1])
    script = """
import json, pathlib, sys
sys.modules["imagecodecs"] = None
from seg import images
from seg.images import read
for path in map(pathlib.Path, sys.argv[1:]):
    try:
        print(json.dumps(read.read_image(path)[..., 0].tolist()))
    except images.ImageError as error:
        print(json.dumps(str(error)))
"""
    names = ("lzw.tif", "fax.tif", "zlib.tif", "stack.tif", "deep.png")
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, *(str(tmp_path / n) for n in names)],
        capture_output=True,
        text=True,
        cwd=root,
        check=True,
    )
    lzw, fax, deflate, stack, deep = map(json.loads, done.stdout.splitlines())
    np.testing.assert_array_equal(lzw, GREY)
    np.testing.assert_array_equal(fax, np.where(GREY > 127, 255, 0))
    np.testing.assert_array_equal(deflate, DEEP)
    assert "needs imagecodecs" in stack and "needs imagecodecs" in deep


# Channels


def test_channels_that_do_not_fit_can_be_chosen():
    two, five = np.zeros((3, 4, 2), np.uint8), np.zeros((3, 4, 5), np.uint8)
    with pytest.raises(images.ChannelError, match=r"'C=0' \(0 to 1\), or"):
        read.as_channels(two, 3)
    with pytest.raises(images.ChannelError, match=r"'C=0' or 'C=0\+1\+2' \("):
        read.as_channels(five, 3)
    with pytest.raises(images.ChannelError, match="takes 4; train with model"):
        read.as_channels(two, 4)


def test_grey_to_colour_and_back_is_the_same():
    for image in (GREY, DEEP, GREY.astype(np.float32)):
        colour = read.as_channels(image[..., None], 3)
        assert colour.shape == (13, 9, 3) and colour.dtype == image.dtype
        back = read.as_channels(colour, 1)
        assert back.dtype == image.dtype
        np.testing.assert_allclose(back[..., 0], image, rtol=1e-6)
    np.testing.assert_array_equal(
        read.as_channels(np.dstack([DEEP] * 3), 1)[..., 0], DEEP
    )


def test_luma_is_that_of_pillow_within_rounding():
    expected = np.asarray(Image.fromarray(COLOUR).convert("L"), int)
    found = read.as_channels(COLOUR, 1)[..., 0].astype(int)
    assert np.abs(found - expected).max() <= 1


def test_other_changes_of_channels_are_refused():
    with pytest.raises(
        images.ImageError, match="2 channels, the model takes 1"
    ):
        read.as_channels(np.zeros((4, 4, 2), np.uint8), 1)
    same = np.zeros((4, 4, 5), np.uint8)
    assert read.as_channels(same, 5) is same
