import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import stats

from seg import config
from seg.images import read, write

RNG = np.random.default_rng(0)


def squares(shape=(40, 60)):
    """Two objects that touch along a column, one alone, one at the border."""
    labels = np.zeros(shape, np.int32)
    labels[5:15, 5:15] = 1
    labels[5:15, 15:25] = 2
    labels[22:32, 30:42] = 7
    labels[30:40, 0:8] = 9
    return labels


# whole


def test_a_result_appears_only_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with write.whole(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.parent == path.parent
        assert temporary.suffix == path.suffix
    assert path.read_text() == "half"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), write.whole(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_written_whole_too(tmp_path):
    path = tmp_path / "bundle"
    with pytest.raises(RuntimeError), write.whole(path) as temporary:
        temporary.mkdir()
        (temporary / "a").write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with write.whole(path) as temporary:
        temporary.mkdir()
        (temporary / "a").write_text("all")
    assert (path / "a").read_text() == "all"
    with (
        pytest.raises(config.UserError, match="folder"),
        write.whole(path) as temporary,
    ):
        temporary.mkdir()


def test_what_cannot_be_written_is_one_line_with_a_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    for path, what in (
        (tmp_path / "file" / "a.txt", "a part of the path is a file"),
        (tmp_path / ("a" * 300 + ".txt"), "too long"),
        (tmp_path, "is a folder"),
    ):
        with (
            pytest.raises(config.UserError, match=what) as caught,
            write.whole(path) as temporary,
        ):
            temporary.write_text("")
        assert str(caught.value).startswith(f"cannot write {path}: ")


def test_a_full_disk_says_so(tmp_path):
    with (
        pytest.raises(config.UserError, match="disk is full"),
        write.whole(tmp_path / "a"),
        open("/dev/full", "wb", buffering=0) as full,
    ):
        full.write(b"x")


def test_an_error_about_another_file_is_not_blamed_on_the_result(tmp_path):
    with pytest.raises(NotADirectoryError), write.whole(tmp_path / "a"):
        (tmp_path / "b").write_text("")
        open(tmp_path / "b" / "c")  # noqa: SIM115
    with pytest.raises(OSError) as caught, write.whole(tmp_path / "a"):
        raise OSError(errno.EBADF, "bad")
    assert caught.value.errno == errno.EBADF


def test_a_killed_process_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    script = (
        "import sys, time\n"
        "from seg.images import write\n"
        "with write.whole(sys.argv[1]) as t:\n"
        "    t.write_text('half'); print('ready', flush=True); time.sleep(60)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, path],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    with child:
        assert child.stdout.readline() == b"ready\n"
        os.kill(child.pid, signal.SIGKILL)
    assert path.read_text() == "old"


# files


@pytest.mark.parametrize(
    ("largest", "dtype"), [(0, "uint16"), (65535, "uint16"), (65536, "uint32")]
)
def test_labels_come_back_in_the_smallest_type(tmp_path, largest, dtype):
    labels = squares()
    labels[0, 0] = largest
    path = tmp_path / "a_labels.tif"
    write.write_labels(path, labels)
    assert tifffile.imread(path).dtype == dtype
    np.testing.assert_array_equal(read.read_mask(path), labels)


@pytest.mark.parametrize("n_classes", [1, 2, 4])
def test_uncertainty_is_the_entropy_of_the_classes(tmp_path, n_classes):
    draw = np.random.default_rng(n_classes)
    p = draw.dirichlet(np.full(max(n_classes, 2), 0.5), (6, 9))
    p[0, 0] = np.eye(p.shape[-1])[0]  # sure
    p[0, 1] = 1 / p.shape[-1]  # nothing is known
    wanted = stats.entropy(p, axis=-1, base=p.shape[-1])
    given = p[..., 1:] if n_classes == 1 else p
    write.write_uncertainty(tmp_path / "u.tif", given.astype(np.float32))
    found = tifffile.imread(tmp_path / "u.tif")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert found[0, 0] == 0 and found[0, 1] == pytest.approx(1)


def test_classes_and_probabilities_come_back(tmp_path):
    classes = RNG.integers(0, 4, (7, 9))
    write.write_classes(tmp_path / "c.png", classes)
    np.testing.assert_array_equal(read.read_mask(tmp_path / "c.png"), classes)
    for n in (1, 3, 5):
        probabilities = RNG.random((7, 9, n), np.float32)
        write.write_probabilities(tmp_path / "p.tif", probabilities)
        found = read.read_image(tmp_path / "p.tif")
        np.testing.assert_array_equal(found, probabilities)


def test_a_png_is_what_other_programs_read(tmp_path):
    colour = RNG.integers(0, 256, (7, 9, 3), np.uint8)
    write.write_png(tmp_path / "a.png", colour)
    found = np.asarray(Image.open(tmp_path / "a.png"))
    np.testing.assert_array_equal(found, colour)


# pictures


def test_colour_is_shown_as_it_is_and_grey_is_stretched():
    colour = RNG.integers(0, 256, (20, 20, 3), np.uint8)
    np.testing.assert_array_equal(write.display(colour), colour)
    for dtype, top in ((np.uint8, 9), (np.uint16, 900), (np.float32, 0.01)):
        grey = (RNG.random((20, 20, 1)) * top).astype(dtype)
        shown = write.display(grey)
        assert shown.shape == (20, 20, 3) and shown.dtype == np.uint8
        assert shown.min() <= 5 and shown.max() == 255
        np.testing.assert_array_equal(shown[..., 0], shown[..., 2])
        order = np.argsort(grey.ravel(), kind="stable")
        assert (np.diff(shown[..., 0].ravel()[order].astype(int)) >= 0).all()


def test_grey_in_three_channels_is_grey():
    grey = RNG.integers(0, 30, (20, 20, 1), np.uint8)
    np.testing.assert_array_equal(
        write.display(np.repeat(grey, 3, -1)), write.display(grey)
    )
    np.testing.assert_array_equal(
        write.display(grey[..., 0]), write.display(grey)
    )


def test_any_number_of_channels_and_constant_images_can_be_shown():
    for n in (1, 2, 3, 4, 7):
        for dtype in (np.uint8, np.uint16, np.float32):
            assert write.display(np.ones((5, 6, n), dtype)).shape == (5, 6, 3)


def test_a_thin_line_is_the_inner_border_of_each_object():
    labels = squares()
    lines = write.outlines(labels, 1)
    inner = np.zeros_like(labels)
    for k in (1, 2, 7, 9):
        mask = np.pad(labels == k, 1, mode="edge")
        eroded = np.ones(labels.shape, bool)
        for row in range(3):
            for col in range(3):
                eroded &= mask[row : row + 40, col : col + 60]
        inner[(labels == k) & ~eroded] = k
    np.testing.assert_array_equal(lines, inner)
    assert lines[10, 14] == 1 and lines[10, 15] == 2  # two lines where touching
    assert lines[35, 0] == 0  # the border of the image is none of the object


@pytest.mark.parametrize("width", [2, 3, 4, 5])
def test_a_wide_line_has_its_width_and_covers_no_other_object(width):
    labels = squares()
    lines = write.outlines(labels, width)
    assert np.count_nonzero(lines[10, 26:60] == 0) == 34 or width > 1
    column = lines[27, 20:50]  # through object 7, both sides
    assert np.count_nonzero(column) == 2 * width
    covered = (lines > 0) & (labels > 0)
    np.testing.assert_array_equal(lines[covered], labels[covered])


def test_an_overlay_changes_the_lines_only():
    image = RNG.integers(0, 256, (40, 60, 3), np.uint8)
    before = image.copy()
    labels = squares()
    drawn = write.overlay(image, labels)
    np.testing.assert_array_equal(image, before)
    lines = write.outlines(labels, 1) > 0
    np.testing.assert_array_equal(drawn[~lines], image[~lines])
    colours = {tuple(drawn[r, c]) for r, c in ((5, 5), (5, 24), (22, 30))}
    assert len(colours) == 3


def test_an_overlay_by_class_takes_the_colours_of_the_classes():
    image = np.zeros((40, 60, 1), np.uint8)
    labels = squares()
    classes = np.where(labels == 7, 2, np.where(labels > 0, 1, 0))
    drawn = write.overlay(image, labels, classes.astype(np.uint8))
    assert tuple(drawn[5, 5]) == tuple(drawn[14, 24]) == tuple(write.COLOURS[0])
    assert tuple(drawn[22, 30]) == tuple(write.COLOURS[1])


def test_an_overlay_of_nothing_is_the_image():
    image = RNG.integers(0, 256, (4, 6, 3), np.uint8)
    none = np.zeros((4, 6), np.int32)
    np.testing.assert_array_equal(write.overlay(image, none), image)


def test_lines_grow_with_the_image_but_not_beyond_its_objects():
    assert [write.thickness((n, n)) for n in (64, 512, 1024, 2048, 4096)] == [
        1, 1, 1, 2, 4,
    ]  # fmt: skip
    labels = np.zeros((2600, 2600), np.int32)
    labels[100:110, 100:110] = 1  # a line of 3 px would fill it
    image = np.zeros((2600, 2600, 1), np.uint8)
    drawn = write.overlay(image, labels).any(-1)
    np.testing.assert_array_equal(drawn, write.outlines(labels, 1) > 0)


def test_a_large_overlay_takes_seconds():
    labels = np.kron(
        np.arange(64 * 64).reshape(64, 64), np.ones((32, 32), int)
    ).astype(np.int32)
    image = np.zeros((2048, 2048, 1), np.uint16)
    start = time.perf_counter()
    write.overlay(image, labels, (labels > 0).astype(np.uint8))
    assert time.perf_counter() - start < 10


def test_neighbouring_objects_have_colours_that_differ():
    colours = write.object_colours(500).astype(int)
    steps = np.abs(np.diff(colours, axis=0)).max(axis=1)
    assert steps.min() > 60
    assert colours.max(axis=1).min() == 255  # bright


def test_boxes_are_drawn_where_the_rows_say():
    image = np.zeros((40, 60, 3), np.uint8)
    rows = [
        {"label": 1, "class": "cell", "bbox_row0": 5, "bbox_col0": 10,
         "bbox_row1": 30, "bbox_col1": 50},
        {"label": 2, "class": "bead", "bbox_row0": 0, "bbox_col0": 0,
         "bbox_row1": 4, "bbox_col1": 4},
    ]  # fmt: skip
    labels = np.zeros((40, 60), np.int32)
    labels[5:30, 10:50], labels[:4, :4] = 1, 2
    classes = np.where(labels == 1, 3, labels // 2).astype(np.uint8)
    drawn = write.boxes(image, labels, classes, rows)
    assert not image.any()
    for row, col in ((5, 10), (29, 49), (5, 49), (29, 10)):
        assert tuple(drawn[row, col]) == tuple(write.COLOURS[2])
    assert tuple(drawn[3, 3]) == tuple(write.COLOURS[0])
    assert not drawn[30:, 51:].any()
    lines = write.overlay(image, labels, classes)
    assert tuple(lines[5, 10]) == tuple(drawn[5, 10])


BOXED = {"label": 4, "class": "cell", "bbox_row0": 5, "bbox_col0": 10,
         "bbox_row1": 30, "bbox_col1": 50}  # fmt: skip


def test_crops_are_the_pixels_of_the_boxes():
    image = RNG.integers(0, 256, (40, 60, 3), np.uint8)
    ((name, crop),) = write.crops(image, [BOXED])
    assert name == "cell_00004"
    np.testing.assert_array_equal(crop, image[5:30, 10:50])


def test_names_of_crops_are_fit_for_files():
    row = BOXED | {"class": "../half collapsed"}
    ((name, _),) = write.crops(np.zeros((40, 60, 1)), [row])
    assert name == "_half_collapsed_00004"


def test_crops_are_written_as_one_folder_that_replaces_an_older_one(tmp_path):
    image = RNG.integers(0, 256, (40, 60, 3), np.uint8)
    folder = tmp_path / "a_crops"
    write.write_crops(folder, image, [BOXED, BOXED | {"label": 5}])
    write.write_crops(folder, image, [BOXED])
    assert [path.name for path in folder.iterdir()] == ["cell_00004.png"]
    crop = np.asarray(Image.open(folder / "cell_00004.png"))
    np.testing.assert_array_equal(crop, image[5:30, 10:50])
    assert [path.name for path in tmp_path.iterdir()] == ["a_crops"]
