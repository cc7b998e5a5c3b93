import io
import pathlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from seg import config, images
from seg.data import layouts

DATA = pathlib.Path(__file__).parents[3] / "shared" / "data"
IMAGE = np.random.default_rng(0).integers(0, 255, (12, 16), np.uint8)
MASK = np.zeros((12, 16), np.uint8)
MASK[2:6, 2:6] = 255


def png(array, **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG", **options)
    return file.getvalue()


def write(root, content):
    for name, bytes_ in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(bytes_)


def of(root, layout="folders", **changes):
    knobs = {key.replace("__", "."): value for key, value in changes.items()}
    return config.replace(
        config.Config(),
        {"data.layout": layout, "data.path": str(root)} | knobs,
    )


def test_all_defects_are_listed_at_once(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    square = np.zeros((12, 12), np.uint8)
    square[3:5, 3:5] = 255
    jpeg = io.BytesIO()
    Image.fromarray(IMAGE).save(jpeg, "JPEG")
    nan = io.BytesIO()
    tifffile.imwrite(nan, np.full((12, 16), np.nan, np.float32))
    good = {"good": (png(IMAGE), png(MASK))}
    bad = {
        "cut": (png(IMAGE)[:-40], png(MASK)),
        "empty": (b"", png(MASK)),
        "text": (b"no image at all", png(MASK)),
        "named": (jpeg.getvalue(), png(MASK)),
        "small": (png(IMAGE), png(MASK[:10])),
        "turned": (png(square, exif=turned), png(square)),
        "coloured": (png(IMAGE), png(np.dstack([MASK, MASK // 2, MASK]))),
        "graded": (png(IMAGE), png(IMAGE // 2)),
        "cutmask": (png(IMAGE), png(MASK)[:-40]),
    }  # fmt: skip
    for name, (image, mask) in (good | bad).items():
        write(
            tmp_path,
            {f"images/{name}.png": image, f"masks/{name}.png": mask},
        )
    write(
        tmp_path,
        {
            "images/alone.png": png(IMAGE),
            "masks/lost.png": png(MASK),
            "images/good.tif": png(IMAGE),
            "images/slide.czi": b"x",
            "images/nan.tif": nan.getvalue(),
            "masks/nan.png": png(MASK),
        },
    )
    defects = layouts.verify(of(tmp_path))
    found = {defect.file: defect for defect in defects}
    expected = {
        "images/cut.png": "truncated",
        "images/empty.png": "empty",
        "images/text.png": "neither PNG",
        "images/named.png": "its contents are .jpg",
        "masks/small.png": "10x16 px, its image images/small.png has 12x16",
        "images/turned.png": "EXIF (orientation 6)",
        "masks/coloured.png": "in colours",
        "masks/graded.png": "are they objects",
        "masks/cutmask.png": "truncated",
        "images/alone.png": "without a mask",
        "masks/lost.png": "without an image",
        "images/good.tif": "the same stem as images/good.png",
        "images/slide.czi": "format",
        "images/nan.tif": "NaN",
    }
    assert found.keys() == expected.keys()
    for name, what in expected.items():
        assert what in found[name].what, found[name]
        assert found[name].remedy
        assert "\n" not in str(found[name])
    with pytest.raises(config.UserError, match="seg verify lists all"):
        layouts.scan(of(tmp_path))


def test_good_data_have_no_defects(tmp_path):
    for i in range(4):
        image = np.roll(IMAGE, i)
        write(
            tmp_path,
            {f"images/{i}.png": png(image), f"masks/{i}.png": png(MASK)},
        )
    assert layouts.verify(of(tmp_path)) == []


def test_what_is_listed_is_what_loading_refuses(tmp_path):
    write(
        tmp_path,
        {"images/a.png": png(IMAGE), "masks/a.png": png(MASK[:, :9])},
    )
    (defect,) = layouts.verify(of(tmp_path))
    (sample,) = layouts.scan(of(tmp_path))
    with pytest.raises(images.ImageError) as caught:
        sample.load()
    assert str(caught.value) == str(defect)


def test_several_defects_of_one_image_are_all_listed(tmp_path):
    write(
        tmp_path,
        {
            "id1/images/id1.png": png(IMAGE),
            "id1/masks/a.png": png(MASK[:8]),
            "id1/masks/b.png": png(MASK)[:-30],
            "id1/masks/c.png": png(np.where(MASK, IMAGE // 2 + 1, 0).astype(
                np.uint8)),
        },
    )  # fmt: skip
    files = [d.file for d in layouts.verify(of(tmp_path, "dsb2018"))]
    assert files == ["id1/masks/a.png", "id1/masks/b.png"]
    (tmp_path / "id1/masks/a.png").unlink()
    (tmp_path / "id1/masks/b.png").unlink()
    (defect,) = layouts.verify(of(tmp_path, "dsb2018"))
    assert defect.file == "id1/masks/c.png" and "several" in defect.what


def test_defects_of_kaggles_tree(tmp_path):
    other = np.roll(MASK, 1)
    write(
        tmp_path,
        {
            "a/images/a.png": png(IMAGE), "a/masks/1.png": png(MASK),
            "a/masks/2.png": png(other),
            "b/images/b.png": png(IMAGE),
            "c/masks/1.png": png(MASK),
            "d/images/d.png": png(IMAGE), "d/images/e.png": png(IMAGE),
            "d/masks/1.png": png(MASK),
            "x/a/images/a.png": png(IMAGE), "x/a/masks/1.png": png(MASK),
        },
    )  # fmt: skip
    found = {d.file: d.what for d in layouts.verify(of(tmp_path, "dsb2018"))}
    assert found == {
        "a/images/a.png": "masks of its objects overlap in 12 px",
        "b": "an image without masks",
        "c": "masks, but no image",
        "d": "2 images in one folder",
        "x/a": "the same id as a",
    }
    first = of(tmp_path, "dsb2018", data__overlaps="first")
    assert "a/images/a.png" not in {d.file for d in layouts.verify(first)}


def test_one_image_in_two_splits_is_a_defect(tmp_path):
    tiff = io.BytesIO()
    tifffile.imwrite(tiff, MASK.astype(np.uint16))
    for split in ("train", "test"):
        for i in range(3):
            image = io.BytesIO()
            tifffile.imwrite(image, np.roll(IMAGE, i + 5 * (split == "test")))
            write(
                tmp_path,
                {
                    f"{split}/images/{split}{i}.tif": image.getvalue(),
                    f"{split}/masks/{split}{i}.tif": tiff.getvalue(),
                },
            )
    assert layouts.verify(of(tmp_path, "stardist")) == []
    same = tmp_path / "test/images/test1.tif"
    same.write_bytes((tmp_path / "train/images/train0.tif").read_bytes())
    (defect,) = layouts.verify(of(tmp_path, "stardist"))
    assert "of another split" in defect.what
    for kind in ("images", "masks"):
        (tmp_path / f"test/{kind}/test1.tif").rename(
            tmp_path / f"test/{kind}/train0.tif"
        )
    names = {d.file for d in layouts.verify(of(tmp_path, "stardist"))}
    assert "train0" in names
    with pytest.raises(config.UserError, match="train0"):
        layouts.scan(of(tmp_path, "stardist"))


def test_masks_that_hold_no_object_ids_are_defects(tmp_path):
    classes = np.zeros((12, 16), np.uint8)
    classes[1:11:3, 1:15:3] = 255
    for name, mask in {
        "good": MASK.astype(np.uint16),
        "signed": -(MASK > 0).astype(np.int16),
        "binary": classes,
    }.items():
        tiff = io.BytesIO()
        tifffile.imwrite(tiff, mask)
        image = png(np.roll(IMAGE, len(name)))
        write(
            tmp_path,
            {f"images/{name}.png": image, f"masks/{name}.tif": tiff.getvalue()},
        )
    binary, signed = layouts.verify(of(tmp_path, "stardist"))
    assert (binary.file, signed.file) == (
        "masks/binary.tif",
        "masks/signed.tif",
    )
    assert "0 and 255 in 20 regions" in binary.what
    assert "data.layout=folders" in binary.remedy
    assert "negative" in signed.what
    (left,) = layouts.verify(of(tmp_path))
    assert left.file == "masks/signed.tif"


def test_a_wrong_number_of_channels_is_a_defect(tmp_path):
    deep = io.BytesIO()
    tifffile.imwrite(
        deep, np.zeros((2, 12, 16), np.uint8), imagej=True,
        metadata={"axes": "CYX"},
    )  # fmt: skip
    write(tmp_path, {"images/a.tif": deep.getvalue(), "masks/a.png": png(MASK)})
    (defect,) = layouts.verify(of(tmp_path))
    assert defect.file == "images/a.tif" and "2 channels" in defect.what


def test_an_empty_folder_is_one_defect(tmp_path):
    (defect,) = layouts.verify(of(tmp_path))
    assert "no labelled images" in defect.what


@pytest.mark.data
@pytest.mark.parametrize("layout", ["stardist", "folders"])
def test_stardists_archive_has_no_defects(layout):
    path = DATA / "dsb2018_stardist.zip"
    if not path.is_file():
        pytest.skip(f"{path} is missing")
    assert layouts.verify(of(path, layout, model__in_channels=1)) == []


@pytest.mark.data
def test_kaggles_archive_has_six_images_with_overlaps():
    path = DATA / "dsb2018_stage1_train.zip"
    if not path.is_file():
        pytest.skip(f"{path} is missing")
    defects = layouts.verify(of(path, "dsb2018"))
    assert len(defects) == 6
    assert all("overlap" in defect.what for defect in defects)
