import pytest

from seg.data import folders


class Names:
    """A tree of which only the names matter."""

    def __init__(self, *names):
        self.names = sorted(names)


def pairs(*names):
    found, defects = folders.find(Names(*names))
    assert not defects, defects
    return {(p.id, p.split, p.image, *p.masks) for p in found}


@pytest.mark.parametrize(
    ("image", "mask", "id_", "split"),
    [
        ("images/a.png", "masks/a.png", "a", ""),
        ("train/inputs/a.png", "train/masks/a.tif", "a", "train"),
        ("inputs/train/a.png", "masks/train/a.tif", "a", "train"),
        ("top/data 3/test/images/a.tif", "top/data 3/test/masks/a.tif", "a",
         "test"),
        ("images_jpg/Img (1).jpg", "masks_gt_png/Img (1).png", "Img (1)", ""),
        ("image/all/1.bmp", "label/all/1.bmp", "1", ""),
        ("Validation/Images/x_0.TIF", "Validation/Labels/x_0.TIF", "x_0",
         "val"),
        ("train_images/a.png", "train_masks/a.png", "a", "train"),
        ("raw/a.png", "gt/a_mask.png", "a", ""),
        ("raw/a_raw.png", "gt/a_mask.png", "a", ""),
        ("a.tif", "a_cp_masks.tif", "a", ""),
        ("set1/raw.tif", "set1/instances_ids.png", "raw", ""),
        ("images/a.b.png", "masks/a.b.png", "a.b", ""),
        ("data/src/a.jpg", "data/label/a.npy", "a", ""),
        ("train/src/a.jpg", "train/label/a_label.npy", "a", "train"),
        ("a.tif", "a_masks.npy", "a", ""),
        ("images/1_mask.png", "masks/1_mask.png", "1_mask", ""),
    ],
)  # fmt: skip
def test_an_image_finds_its_mask(image, mask, id_, split):
    assert pairs(image, mask) == {(id_, split, image, mask)}


def test_matching_is_by_stem_never_by_order():
    found = pairs(
        "images/b.png", "images/a10.png", "images/a9.png", "images/a9b.png",
        "masks/a9.tif", "masks/a10.tif", "masks/b.tif", "masks/a9b.tif",
    )  # fmt: skip
    for id_, _, image, mask in found:
        assert image == f"images/{id_}.png" and mask == f"masks/{id_}.tif"


def test_other_folders_are_part_of_the_id():
    found = pairs(
        "x/images/p1/a.png", "x/masks/p1/a.png",
        "x/images/p2/a.png", "x/masks/p2/a.png",
    )  # fmt: skip
    assert {id_ for id_, *_ in found} == {"p1/a", "p2/a"}
    found = pairs("s1/raw.tif", "s1/ids.png", "s2/raw.tif", "s2/ids.png")
    assert {id_ for id_, *_ in found} == {"s1", "s2"}


def test_an_exact_stem_goes_before_a_loose_one():
    found = pairs(
        "images/a.png", "images/a_img.png", "masks/a.png", "masks/a_img.png"
    )
    assert ("a_img", "", "images/a_img.png", "masks/a_img.png") in found


def test_files_elsewhere_do_not_count_where_folders_have_roles():
    found = pairs(
        "images/a.png", "masks/a.png", "preview.png", "docs/figure.png",
        "images/notes.txt", "train.csv",
    )  # fmt: skip
    assert len(found) == 1


def test_pairs_elsewhere_count_where_other_folders_have_roles():
    names = Names(
        "bright/images_jpg/1.jpg", "bright/masks_png/1.png",
        "phase/set1/raw.tif", "phase/set1/instances_ids.png",
        "phase/set2/raw.tif", "phase/overview.png", "phase/scan.czi",
    )  # fmt: skip
    found, defects = folders.find(names)
    assert not defects
    assert [(pair.image, pair.masks, pair.id) for pair in found] == [
        ("bright/images_jpg/1.jpg", ("bright/masks_png/1.png",), "bright/1"),
        ("phase/set1/raw.tif", ("phase/set1/instances_ids.png",), "phase/set1"),
    ]


def test_all_that_does_not_match_is_named():
    _, defects = folders.find(
        Names(
            "images/a.png", "masks/a.png", "images/alone.png",
            "masks/lost.png", "images/twice.png", "images/twice.tif",
            "masks/twice.png", "images/b.czi", "images/m.png", "masks/m.png",
            "masks/m.tif", "images/n.npy", "masks/n.npz", "masks/a.npy",
        )
    )  # fmt: skip
    found = {defect.file: defect.what for defect in defects}
    assert found == {
        "images/alone.png": "an image without a mask",
        "masks/lost.png": "a mask without an image",
        "images/twice.tif": "the same stem as images/twice.png",
        "masks/m.tif": "the same stem as masks/m.png",
        "masks/a.png": "the same stem as masks/a.npy",
        "images/b.czi": "not of a format read here",
        "images/n.npy": "not of a format read here",
        "masks/n.npz": "not of a format read here",
    }


def test_two_images_of_one_id_are_named():
    _, defects = folders.find(
        Names("a.png", "a_mask.png", "a_img.png", "a_img_mask.png")
    )
    assert any("the same" in d.what or "without" in d.what for d in defects)


def test_a_mask_of_another_split_does_not_fit():
    found, defects = folders.find(
        Names("train/images/a.png", "test/masks/a.png")
    )
    assert not found and len(defects) == 2
