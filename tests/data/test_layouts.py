import collections
import dataclasses
import io
import pathlib
import zipfile

import numpy as np
import pytest
import tifffile
from PIL import Image

from seg import config, images
from seg.data import dataset, files, layouts, places, split

DATA = pathlib.Path(__file__).parents[3] / "shared" / "data"
RNG = np.random.default_rng(0)


def encoded(array, ending):
    file = io.BytesIO()
    if ending == "tif":
        tifffile.imwrite(file, array)
    else:
        Image.fromarray(array).save(file, ending)
    return file.getvalue()


def png(array):
    return encoded(array, "png")


def dsb_files(n=8, overlap=False):
    """Kaggle's tree: RGBA images, a mask a nucleus, one image without any."""
    content = {}
    for i in range(n):
        rgba = RNG.integers(0, 255, (12, 16, 4), np.uint8)
        rgba[..., :3] = rgba[..., :1]
        content[f"stage1/id{i}/images/id{i}.png"] = png(rgba)
        content[f"stage1/id{i}/masks/"] = b""
        for k in range(0 if i == 3 else 2):
            mask = np.zeros((12, 16), np.uint8)
            mask[2:6, 2 + 5 * k : 6 + 5 * k + overlap] = 255
            mask[8:10, 2] = 255 if k and overlap else 0
            content[f"stage1/id{i}/masks/m{k}.png"] = png(mask)
    return content


def put(content, root, form):
    """Writes files as a folder or a zip; returns its path."""
    if form == "zip":
        path = root / "data.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, bytes_ in content.items():
                archive.writestr(name, bytes_)
        return str(path)
    for name, bytes_ in content.items():
        path = root / "data" / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes_)
    return str(root / "data")


def of(path, layout, **changes):
    knobs = {key.replace("__", "."): value for key, value in changes.items()}
    return config.replace(
        config.Config(),
        {"data.layout": layout, "data.path": str(path)} | knobs,
    )


@pytest.fixture(params=["folder", "zip"])
def form(request):
    return request.param


def test_dsb2018_as_folder_and_zip(tmp_path, form):
    content = dsb_files()
    samples = layouts.scan(of(put(content, tmp_path, form), "dsb2018"))
    assert [sample.id for sample in samples] == [f"id{i}" for i in range(8)]
    assert {sample.split for sample in samples} == {""}
    assert all(s.group.startswith("12x16-grey-") for s in samples)
    record = samples[0].load()
    stored = np.asarray(
        Image.open(io.BytesIO(content["stage1/id0/images/id0.png"]))
    )
    np.testing.assert_array_equal(record["image"], stored[..., :1])
    assert record["classes"].dtype == np.uint8
    assert record["labels"].dtype == np.int32
    assert record["labels"].max() == 2
    np.testing.assert_array_equal(record["classes"], record["labels"] > 0)
    assert record["labels"][3, 3] == 1 and record["labels"][3, 8] == 2
    assert not samples[3].load()["labels"].any()  # nothing to find is valid


def test_colour_is_kept_for_a_model_of_three_channels(tmp_path):
    path = put(dsb_files(), tmp_path, "zip")
    (sample, *_) = layouts.scan(of(path, "dsb2018", model__in_channels=3))
    assert sample.load()["image"].shape == (12, 16, 3)


def test_overlaps_follow_the_policy(tmp_path, form):
    path = put(dsb_files(overlap=True), tmp_path, form)
    (sample, *_) = layouts.scan(of(path, "dsb2018"))
    assert sample.load()["labels"].max() == 2  # 1 px apart still
    content = dsb_files()
    wide = np.zeros((12, 16), np.uint8)
    wide[2:6, 2:16] = 255
    content["stage1/id0/masks/m0.png"] = png(wide)
    path = put(content, tmp_path, form)
    (sample, *_) = layouts.scan(of(path, "dsb2018"))
    with pytest.raises(images.ImageError, match=r"overlap in 16 px.*overlaps"):
        sample.load()
    for policy, winner in (("first", 1), ("smallest", 2)):
        changed = of(path, "dsb2018", data__overlaps=policy)
        (sample, *_) = layouts.scan(changed)
        assert sample.load()["labels"][3, 8] == winner


def stardist_files(n_train=20, n_test=4):
    content = {}
    for name, n in (("train", n_train), ("test", n_test)):
        for i in range(n):
            labels = np.zeros((10, 12), np.uint16)
            labels[1:4, 1:4], labels[6:9, 6:9] = 1, 400
            labels[0, 11] = 1
            image = RNG.integers(0, 255, (10, 12), np.uint8)
            stem = f"{name}{i:02d}.tif"
            content[f"dsb/{name}/images/{stem}"] = encoded(image, "tif")
            content[f"dsb/{name}/masks/{stem}"] = encoded(labels, "tif")
    return content


def test_stardist_keeps_the_published_split(tmp_path, form):
    path = put(stardist_files(), tmp_path, form)
    samples = layouts.scan(of(path, "stardist"))
    found = {s.id: s.split for s in samples}
    names = [f"train{i:02d}" for i in range(20)]
    expected = split.stardist_split(names)
    assert {k: v for k, v in found.items() if k in names} == expected
    assert collections.Counter(found.values()) == {
        "train": 17, "val": 3, "test": 4,
    }  # fmt: skip
    record = samples[0].load()
    assert record["labels"].max() == 2  # ids in order, a piece stays with it
    assert record["labels"][0, 11] == record["labels"][2, 2] == 1


def test_a_published_split_can_be_given_up(tmp_path):
    path = put(stardist_files(), tmp_path, "zip")
    samples = layouts.scan(of(path, "stardist", data__split="group"))
    assert {s.split for s in samples} == {""}
    assert all("/" in s.group for s in samples)
    assigned = split.assign(samples, 0.2, 0.2, 0)
    assert set(assigned.values()) == set(split.SPLITS)


def test_a_mask_of_ids_with_a_single_object_is_that_object(tmp_path):
    content = stardist_files(4, 1)
    labels = np.zeros((10, 12), np.uint16)
    labels[1:3, 1:3] = labels[6:8, 6:8] = 1
    content["dsb/test/masks/test00.tif"] = encoded(labels, "tif")
    path = put(content, tmp_path, "zip")
    samples = {s.id: s for s in layouts.scan(of(path, "stardist"))}
    assert samples["test00"].load()["labels"].max() == 1


def plain_files(n=10, splits=("",), mask=255):
    content = {}
    for name in splits:
        for i in range(n):
            classes = np.zeros((9, 11), np.uint8)
            classes[2:5, 2:5] = mask
            image = RNG.integers(0, 255, (9, 11), np.uint8)
            content[f"{name}/inputs/{i}.png".lstrip("/")] = png(image)
            content[f"{name}/masks/{i}.png".lstrip("/")] = png(classes)
    return content


def test_plain_folders(tmp_path, form):
    path = put(plain_files(), tmp_path, form)
    samples = layouts.scan(of(path, "folders"))
    assert {s.id for s in samples} == set(map(str, range(10)))
    assert {s.split for s in samples} == {""}
    assert all(s.group == s.id for s in samples)
    record = samples[0].load()
    assert record["classes"].max() == record["labels"].max() == 1


def test_folders_with_splits_and_equal_names(tmp_path, form):
    content = plain_files(splits=("train", "valid", "test"))
    samples = layouts.scan(of(put(content, tmp_path, form), "folders"))
    assert len(samples) == len({s.id for s in samples}) == 30
    for sample in samples:
        assert sample.id.startswith(sample.split)


def test_a_validation_is_made_where_none_is_published(tmp_path):
    content = plain_files(n=20, splits=("train", "test"))
    samples = layouts.scan(of(put(content, tmp_path, "zip"), "folders"))
    counts = collections.Counter(s.split for s in samples)
    assert counts["test"] == 20 and counts["val"] == 6 == 20 - counts["train"]


@pytest.mark.parametrize("splits", [("",), ("train",)])
def test_subfolders_are_groups_where_there_are_enough(tmp_path, splits):
    content = {}
    for name, bytes_ in plain_files(n=12, splits=splits).items():
        folder, _, file = name.rpartition("/")
        plate = int(file.split(".")[0]) % 4
        content[f"{folder}/plate{plate}/{file}"] = bytes_
    samples = layouts.scan(of(put(content, tmp_path, "zip"), "folders"))
    assert {s.group for s in samples} == {f"plate{i}" for i in range(4)}


@pytest.mark.parametrize("how", ["group", "clusters"])
@pytest.mark.parametrize("plates", [0, 4])
def test_folders_of_splits_are_no_groups(tmp_path, how, plates):
    """Equal stems put the split into the ids, and not into the groups."""
    content = {}
    found = plain_files(n=12, splits=("train", "val", "test"))
    for name, bytes_ in found.items():
        folder, _, file = name.rpartition("/")
        plate = int(file.split(".")[0]) % plates if plates else ""
        content[f"{folder}/p{plate}/{file}"] = bytes_
    path = put(content, tmp_path, "zip")
    samples = layouts.scan(of(path, "folders", data__split=how))
    assert {s.split for s in samples} == {""} and len(samples) == 36
    groups = {s.group for s in samples}
    if plates:
        assert groups == {"p0", "p1", "p2", "p3"}
    else:
        assert groups == {s.id for s in samples}
    for sample in samples:  # no id is another's
        assert sample.id.partition("/")[0] in ("train", "val", "test")


def test_equal_files_share_a_group(tmp_path, form):
    content = plain_files()
    content["inputs/7.png"] = content["inputs/2.png"]
    samples = layouts.scan(of(put(content, tmp_path, form), "folders"))
    groups = {s.id: s.group for s in samples}
    assert groups["7"] == groups["2"] != groups["3"]


def test_split_by_images_separates_what_belongs_together(tmp_path, caplog):
    """Equal files and a plate's too, as a random split does; and says so."""
    content = {}
    one = plain_files()["inputs/0.png"]
    for plate in range(4):
        for name, bytes_ in plain_files(n=8).items():
            folder, _, file = name.rpartition("/")
            equal = folder == "inputs" and file == "0.png"
            content[f"{folder}/plate{plate}/{file}"] = one if equal else bytes_
    path = put(content, tmp_path, "zip")
    knobs = {"data__split": "images", "data__dir": str(tmp_path / "data")}
    config_ = of(path, "folders", **knobs)
    samples = layouts.scan(config_)
    assert {s.group for s in samples} == {s.id for s in samples}
    assert len(samples) == 32
    records = dataset.prepare(config_, progress=False)
    n = {name: records.n(name) for name in ("train", "val", "test")}
    assert n == {"train": 22, "val": 5, "test": 5}
    assert "data.split=images validates on" in caplog.text
    # what is excluded takes its whole group along all the same
    (tmp_path / "not.txt").write_text("plate0/0\n")
    knobs["data__exclude"] = str(tmp_path / "not.txt")
    rest = layouts.scan(of(path, "folders", **knobs))
    assert len(rest) < len(samples)
    assert not any(s.id.startswith("plate0/") for s in rest)


def test_the_same_image_in_two_splits_is_found_when_it_is_split(tmp_path):
    content = plain_files(splits=("train", "val", "test"))
    content["test/inputs/5.png"] = content["train/inputs/2.png"]
    samples = layouts.scan(of(put(content, tmp_path, "zip"), "folders"))
    with pytest.raises(config.UserError, match="belong together"):
        split.check_leaks(samples, {s.id: s.split for s in samples})


def test_classes_of_plain_folders(tmp_path):
    content = plain_files(mask=2)
    path = put(content, tmp_path, "folder")
    three = of(path, "folders", model__n_classes=3, classes=["a", "b", "c"])
    assert layouts.scan(three)[0].load()["classes"].max() == 2
    # of two classes, 2 is no class: the masks hold object ids
    assert layouts.scan(of(path, "folders"))[0].load()["classes"].max() == 1


def with_arrays(n=4):
    """Images in data/src, label arrays in data/label: 0, 1 bead, 2 cell."""
    content = {}
    for i in range(n):
        image = RNG.integers(0, 255, (12, 16), np.uint8)
        labels = np.zeros((12, 16), np.int32)
        labels[1:4, 1:4], labels[6:9, 6:9], labels[6:9, 12:] = 1, 2, 2
        labels[11, i] = 1
        file = io.BytesIO()
        np.save(file, labels)
        content[f"data/src/{i}.jpg"] = encoded(image, "jpeg")
        content[f"data/label/{i}.npy"] = file.getvalue()
    return content


def test_images_with_label_arrays_are_read(tmp_path, form):
    path = put(with_arrays(), tmp_path, form)
    three = {"model__n_classes": 3, "classes": ["background", "bead", "cell"]}
    samples = layouts.scan(of(path, "folders", **three))
    assert [s.id for s in samples] == ["0", "1", "2", "3"]
    record = samples[2].load()
    assert record["classes"].dtype == np.uint8
    assert record["classes"][11, 2] == 1 and record["classes"][7, 13] == 2
    assert record["labels"].max() == 4  # parts of each class
    assert layouts.verify(of(path, "folders", **three)) == []
    digest = layouts.source_digest(of(path, "folders"))
    content = with_arrays()
    content["data/label/0.npy"] = content["data/label/1.npy"]
    path = put(content, tmp_path, form)
    assert layouts.source_digest(of(path, "folders")) != digest


def test_a_label_array_that_is_a_pickle_is_listed_and_never_run(tmp_path):
    content = with_arrays()
    file = io.BytesIO()
    np.save(file, np.array([{"labels": 1}], object), allow_pickle=True)
    content["data/label/0.npy"] = file.getvalue()
    content["data/label/1.npy"] = content["data/label/1.npy"][:-1]
    wide = io.BytesIO()
    np.save(wide, np.zeros((12, 17), np.uint8))
    content["data/label/2.npy"] = wide.getvalue()
    path = put(content, tmp_path, "folder")
    three = {"model__n_classes": 3, "classes": ["a", "b", "c"]}
    found = {d.file: d for d in layouts.verify(of(path, "folders", **three))}
    whats = {
        "data/label/0.npy": "could run code",
        "data/label/1.npy": "cut short",
        "data/label/2.npy": "12x17 px, its image data/src/2.jpg has 12x16",
    }
    assert found.keys() == whats.keys()
    for name, what in whats.items():
        assert what in found[name].what and found[name].remedy


def test_the_indices_of_a_palette_are_class_ids(tmp_path):
    mask = np.zeros((12, 16), np.uint8)
    mask[2:5, 2:5], mask[2:5, 9:12], mask[8:10, 2:9] = 1, 2, 3
    painted = Image.fromarray(mask, "P")
    painted.putpalette([0, 0, 0, 200, 30, 30, 30, 200, 30, 30, 30, 200])
    file = io.BytesIO()
    painted.save(file, "PNG")
    image = png(RNG.integers(0, 255, (12, 16), np.uint8))
    content = {"images/a.png": image, "masks/a.png": file.getvalue()}
    path = put(content, tmp_path, "zip")
    four = of(path, "folders", model__n_classes=4, classes=list("abcd"))
    (sample,) = layouts.scan(four)
    np.testing.assert_array_equal(sample.load()["classes"], mask)


def test_drawn_data(monkeypatch):
    knobs = {
        "synthetic.n_train": 3, "synthetic.n_val": 2, "synthetic.n_test": 1,
        "synthetic.height": 64, "synthetic.width": 80,
        "synthetic.n_objects": 4, "model.in_channels": 3,
    }  # fmt: skip
    drawn = config.replace(config.Config(), knobs)
    samples = layouts.scan(drawn)
    assert [s.split for s in samples] == ["train"] * 3 + ["val"] * 2 + ["test"]
    record = samples[0].load()
    assert record["image"].shape == (64, 80, 3)
    assert record["labels"].max() > 0
    other = samples[5].load()
    assert not np.array_equal(record["image"], other["image"])
    assert layouts.verify(drawn) == []
    grouped = config.replace(drawn, {"data.split": "group"})
    assert {s.split for s in layouts.scan(grouped)} == {""}
    digest = layouts.source_digest(drawn)
    assert digest == layouts.source_digest(drawn)
    changed = dataclasses.replace(
        drawn, synthetic=dataclasses.replace(drawn.synthetic, blur=2.0)
    )
    assert digest != layouts.source_digest(changed)


# digest


def test_the_digest_is_of_names_and_contents_alone(tmp_path):
    content = dsb_files()
    folder = put(content, tmp_path, "folder")
    archive = put(content, tmp_path, "zip")
    digest = layouts.source_digest(of(folder, "dsb2018"))
    assert digest == layouts.source_digest(of(archive, "dsb2018"))
    changed = pathlib.Path(folder) / "stage1/id0/images/id0.png"
    changed.touch()
    (pathlib.Path(folder) / "notes.txt").write_text("not an image")
    (pathlib.Path(folder) / ".DS_Store").write_text("litter")
    assert digest == layouts.source_digest(of(folder, "dsb2018"))
    changed.write_bytes(changed.read_bytes() + b"\0")
    assert digest != layouts.source_digest(of(folder, "dsb2018"))


def test_a_changed_byte_of_equal_size_changes_the_digest(tmp_path):
    folder = put(plain_files(), tmp_path, "folder")
    digest = layouts.source_digest(of(folder, "folders"))
    path = pathlib.Path(folder) / "inputs/0.png"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert digest != layouts.source_digest(of(folder, "folders"))


# trees


def test_litter_and_links_in_a_circle_do_not_count(tmp_path):
    folder = pathlib.Path(put(plain_files(), tmp_path, "folder"))
    (folder / "__MACOSX" / "inputs").mkdir(parents=True)
    (folder / "__MACOSX" / "inputs" / "._0.png").write_bytes(b"x")
    (folder / "inputs" / "._1.png").write_bytes(b"x")
    (folder / "inputs" / "again").symlink_to(folder)
    assert len(files.open_tree(str(folder)).names) == 20
    content = plain_files() | {"__MACOSX/inputs/._0.png": b"x"}
    archive = put(content, tmp_path, "zip")
    assert len(files.open_tree(archive).names) == 20


def test_what_cannot_be_opened_is_named_with_a_remedy(tmp_path):
    for path, what in (
        ("", "data.path is empty"),
        (tmp_path / "absent", "does not exist"),
    ):
        with pytest.raises(config.UserError, match=what):
            layouts.scan(of(path, "folders"))
    bad = tmp_path / "cut.zip"
    whole = pathlib.Path(put(plain_files(), tmp_path, "zip")).read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(config.UserError, match=r"cut\.zip: not a whole zip"):
        layouts.scan(of(bad, "folders"))
    with pytest.raises(config.ConfigError, match="did you mean folders"):
        layouts.scan(of(tmp_path, "folder"))


def test_a_zip_that_reaches_out_of_itself_is_refused(tmp_path):
    for name in ("../evil.png", "/evil.png", "a\\..\\..\\evil.png"):
        path = put({name: b"x"}, tmp_path, "zip")
        with pytest.raises(config.UserError, match="outside itself"):
            layouts.scan(of(path, "folders"))


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "bomb.zip"
    zeros = bytes(2**20)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("images/a.png", "w") as member,
    ):
        for _ in range(300):
            member.write(zeros)
    tree = files.open_tree(str(path))
    with pytest.raises(images.ImageError, match="bomb"):
        tree.read("images/a.png")


def test_a_damaged_member_is_named(tmp_path):
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, bytes_ in plain_files().items():
            archive.writestr(name, bytes_)
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 6] ^= 0xFF
    path.write_bytes(content)
    (defect,) = layouts.verify(of(path, "folders"))
    assert defect.file == "inputs/0.png" and "CRC" in defect.what


def test_nothing_to_read_says_what_is_wanted(tmp_path):
    (tmp_path / "data").mkdir()
    for layout in layouts.FINDERS:
        with pytest.raises(config.UserError, match="it wants"):
            layouts.scan(of(tmp_path / "data", layout))


# the public sets


def real(name, layout, **changes):
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"{path} is missing")
    return of(path, layout, **changes)


@pytest.mark.data
def test_stardists_archive_splits_as_its_lists_say():
    samples = layouts.scan(real("dsb2018_stardist.zip", "stardist"))
    for name, part in (
        ("trn_380_seed42", "train"), ("val_67_seed42", "val"),
        ("test_50", "test"),
    ):  # fmt: skip
        path = DATA / f"dsb2018_stardist_{name}.txt"
        found = {s.id for s in samples if s.split == part}
        assert found == set(path.read_text().split())
    test = [s.load()["labels"] for s in samples if s.split == "test"]
    assert sum(int(labels.max()) for labels in test) == 2460
    assert sum(labels.size for labels in test) == 7_718_336


@pytest.mark.data
def test_kaggles_archive_has_664_images_in_fields():
    knobs = real("dsb2018_stage1_train.zip", "dsb2018")
    samples = layouts.scan(knobs)
    assert len(samples) == 664
    sizes = collections.Counter(s.group for s in samples)
    tiles = collections.Counter(sizes.values())
    # most of its images are tiles of 2 x 2 fields
    assert tiles[4] > 80 and max(tiles) <= 12
    assert sum(n * k for n, k in tiles.items() if n > 1) > 500
    assigned = split.assign(samples, 0.15, 0.15, 42)
    split.check_leaks(samples, assigned)
    counts = collections.Counter(assigned.values())
    assert abs(counts["val"] - 100) <= 6 and abs(counts["test"] - 100) <= 6


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "n", "dtype"),
    [
        ("pfc_pn_bright_field.zip", 79, np.uint8),
        ("endothelial_cornea.zip", 34, np.uint8),
        ("usiigaci_phase_contrast.zip", 20, np.uint16),
    ],
)
def test_other_archives_are_plain_folders(name, n, dtype):
    samples = layouts.scan(real(name, "folders"))
    assert len(samples) == n
    record = samples[n // 2].load()
    assert record["image"].dtype == dtype and record["labels"].max() > 0


def test_ids_are_left_out_with_their_groups(tmp_path):
    content = {}
    for i in range(9):  # three subfolders are groups
        image = RNG.integers(0, 255, (12, 16)).astype(np.uint8)
        mask = np.zeros((12, 16), np.uint8)
        mask[2:6, 2:6] = 255
        content[f"images/field{i % 3}/im{i}.png"] = png(image)
        content[f"masks/field{i % 3}/im{i}.png"] = png(mask)
    path = put(content, tmp_path, "folder")
    plain = of(path, "folders")
    every = layouts.scan(plain)
    groups = {sample.group for sample in every}
    assert len(every) == 9 and len(groups) == 3
    gone = every[4]
    listed = tmp_path / "gone.txt"
    listed.write_text(f"\n{gone.id}\nnot there\n")
    less = config.replace(plain, {"data.exclude": str(listed)})
    left = layouts.scan(less)
    assert {s.id for s in left} == {
        s.id for s in every if s.group != gone.group
    }
    assert places.setup(less) != places.setup(plain)
    one = config.replace(less, {"data.exclude_groups": False})
    assert {s.id for s in layouts.scan(one)} == {s.id for s in every} - {
        gone.id
    }
    assert places.setup(one) != places.setup(less)
    listed.write_text("elsewhere\n")
    with pytest.raises(config.UserError, match="none of its 1 ids"):
        layouts.scan(less)
    listed.write_text("\n".join(s.id for s in every))
    with pytest.raises(config.UserError, match="nothing is left"):
        layouts.scan(less)
    listed.unlink()
    with pytest.raises(config.UserError, match="an id a line"):
        layouts.scan(less)
