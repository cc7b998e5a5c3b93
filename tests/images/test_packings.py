"""Packings and depths of TIFF, and WebP: written by tifffile and Pillow."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from seg import images
from seg.images import read, slide

RNG = np.random.default_rng(0)
SMOOTH = np.add.outer(np.arange(70), np.arange(90))
GREY = (SMOOTH % 256).astype(np.uint8)
COLOUR = np.dstack([GREY, GREY[::-1], GREY[:, ::-1]])


def tiff(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def webp(array, **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "WEBP", **options)
    return file.getvalue()


@pytest.mark.parametrize("tile", [None, (16, 32)])
@pytest.mark.parametrize(
    "packing", ["lzw", "zlib", "adobe_deflate", "zstd", "lzma", "packbits"]
)
@pytest.mark.parametrize(
    "dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64]
)
def test_a_packing_without_loss_loses_nothing(tmp_path, packing, dtype, tile):
    pytest.importorskip("imagecodecs")
    stored = (RNG.random((70, 90)) * 250).astype(dtype)
    layout = {"tile": tile} if tile else {"rowsperstrip": 16}
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stored, compression=packing, **layout)
    found = read.read_image(path)
    np.testing.assert_array_equal(found[..., 0], stored.astype(np.float32))
    with slide.open_slide(path) as opened:
        np.testing.assert_array_equal(opened.rows(9, 70), found[9:])


@pytest.mark.parametrize("packing", ["lzw", "zlib", "zstd"])
@pytest.mark.parametrize("array", [GREY, COLOUR, GREY.astype(np.float32)])
def test_differences_are_summed_up_again(packing, array):
    pytest.importorskip("imagecodecs")
    content = tiff(array, compression=packing, predictor=True)
    np.testing.assert_array_equal(
        read.read_image(content), array.reshape(70, 90, -1)
    )


@pytest.mark.parametrize("array", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("packing", ["jpeg", "webp", "jpeg2000", "jpegxl"])
def test_a_packing_with_loss_is_near(packing, array):
    pytest.importorskip("imagecodecs")
    if packing == "webp" and array.ndim == 2:
        pytest.skip("WebP inside TIFF has three channels")
    content = tiff(array, compression=packing)
    found = read.read_image(content).astype(int)
    expected = tifffile.imread(io.BytesIO(content)).reshape(found.shape)
    np.testing.assert_array_equal(found, expected)
    assert np.abs(found - array.reshape(found.shape)).mean() < 12


@pytest.mark.parametrize("bits", [2, 4, 6, 10, 12, 14])
def test_codes_of_any_number_of_bits_are_what_was_written(bits):
    pytest.importorskip("imagecodecs")
    dtype = np.uint8 if bits < 8 else np.uint16
    codes = RNG.integers(0, 1 << bits, (13, 9)).astype(dtype)
    packed = _packed(codes, bits)
    np.testing.assert_array_equal(read.read_image(packed)[..., 0], codes)
    np.testing.assert_array_equal(read.read_mask(packed), codes)


def _packed(codes, bits):
    """A TIFF of so many bits a pixel, in one strip, by hand."""
    rows = (
        np.unpackbits(row.astype(">u2").view(np.uint8).reshape(-1, 2), axis=1)
        for row in codes
    )
    strip = b"".join(np.packbits(row[:, -bits:]).tobytes() for row in rows)
    height, width = codes.shape
    file = bytearray(tiff(np.zeros(len(strip), np.uint8).reshape(1, -1)))
    with tifffile.TiffFile(io.BytesIO(bytes(file))) as found:
        tags = found.pages[0].tags
        start = found.pages[0].dataoffsets[0]
        file[start : start + len(strip)] = strip
        for name, value in (
            ("ImageWidth", width),
            ("ImageLength", height),
            ("RowsPerStrip", height),
            ("BitsPerSample", bits),
        ):
            size = 2 if int(tags[name].dtype) == 3 else 4
            at = tags[name].valueoffset
            file[at : at + size] = value.to_bytes(size, "little")
    # without the shape that tifffile notes
    return bytes(file).replace(b'{"shape"', b'["shape"')


def test_a_webp_without_loss_is_what_was_stored():
    content = webp(COLOUR, lossless=True)
    np.testing.assert_array_equal(read.read_image(content), COLOUR)
    assert not read.read_header(content).lossy
    assert read.read_header(content).shape == (70, 90)


def test_a_webp_with_loss_is_read_as_pillow_reads_it():
    content = webp(COLOUR, quality=80)
    expected = np.asarray(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(read.read_image(content), expected)
    assert read.read_header(content).lossy


def test_alpha_and_rotation_of_a_webp():
    alpha = np.dstack([COLOUR, GREY])
    exif = Image.Exif()
    exif[0x0112] = 6
    content = webp(alpha, lossless=True, exact=True, exif=exif)
    turned = np.rot90(COLOUR, -1)
    np.testing.assert_array_equal(read.read_image(content), turned)
    header = read.read_header(content)
    assert (header.shape, header.orientation) == ((90, 70), 6)
    assert not header.lossy


def test_noise_of_a_webp_mask_is_no_colour():
    black_white = np.zeros((64, 64), np.uint8)
    black_white[16:40, 20:50] = 255
    for options in ({"lossless": True}, {"quality": 60}):
        mask = read.read_mask(webp(np.dstack([black_white] * 3), **options))
        np.testing.assert_array_equal(mask > 127, black_white > 0)


def test_an_animated_webp_is_refused():
    still = Image.fromarray(GREY)
    content = webp(COLOUR, save_all=True, append_images=[still.convert("RGB")])
    with pytest.raises(images.ImageError, match="an animated WEBP"):
        read.read_image(content)


def test_a_webp_cut_short_or_changed_breaks_no_more_than_the_file():
    content = webp(COLOUR, lossless=True)
    whole = read.read_image(content)
    for length in range(0, len(content), max(1, len(content) // 60)):
        with pytest.raises(images.ImageError, match=r"^a\.webp: "):
            read.read_image(content[:length], name="a.webp")
    for position in range(min(len(content), 200)):
        changed = bytearray(content)
        changed[position] ^= 0x5A
        try:
            found = read.read_image(bytes(changed), name="a.webp")
        except images.ImageError as error:
            assert str(error).startswith("a.webp: ")
            assert "\n" not in str(error)
        else:
            assert found.ndim == whole.ndim


def test_a_webp_bomb_is_refused_from_its_header():
    """34 bytes that declare 16383 x 16383 pixels."""
    bits = 16382 | 16382 << 14
    body = b"/" + bits.to_bytes(4, "little") + bytes(9)
    chunk = b"VP8L" + len(body).to_bytes(4, "little") + body
    bomb = b"RIFF" + (4 + len(chunk)).to_bytes(4, "little") + b"WEBP" + chunk
    for reader in (read.read_image, read.read_mask, read.read_header):
        with pytest.raises(images.ImageError, match="decompression bomb"):
            reader(bomb, name="a.webp")
