"""Files that ImageJ itself opens, and those that it has written.

A real ImageJ runs a macro, without a screen (`apt-get install imagej xvfb`).
"""

import itertools
import pathlib
import shutil
import subprocess
import zipfile

import numpy as np
import pytest
import roifile
import tifffile

from seg.data.annotations import rois
from seg.images import about, read, vectors, write
from tests.images import test_vectors

JAR = pathlib.Path("/usr/share/java/ij.jar")
NEEDED = ("java", "xvfb-run", "xauth")
pytestmark = pytest.mark.skipif(
    not (JAR.exists() and all(map(shutil.which, NEEDED))),
    reason="no ImageJ here: apt-get install imagej xvfb xauth",
)

EXACT = """
folder = getArgument();
open(folder + "a_labels.tif");
getPixelSize(unit, width, height);
out = unit + " " + width + " " + height + " " + bitDepth() + "\\n";
roiManager("open", folder + "a_rois.zip");
run("Set Scale...", "distance=0");
for (i = 0; i < roiManager("count"); i++) {
  roiManager("select", i);
  getStatistics(area, mean, least, most);
  out += Roi.getName + " " + area + " " + least + " " + most + "\\n";
}
File.saveString(out, folder + "out.txt");
"""

FILLED = """
folder = getArgument();
roiManager("open", folder + "rois.zip");
n = roiManager("count");
newImage("a", "8-bit black", 80, 60, n);
setColor(255);
for (i = 0; i < n; i++) {
  roiManager("select", i);
  setSlice(i + 1);
  fill();
}
run("Select None");
saveAs("tiff", folder + "filled.tif");
"""

STACK = """
folder = getArgument();
newImage("a", "16-bit composite-mode", 9, 7, 2, 3, 4);
for (t = 1; t <= 4; t++) for (z = 1; z <= 3; z++) for (c = 1; c <= 2; c++) {
  Stack.setPosition(c, z, t);
  setPixel(8, 6, 1000 * c + 100 * z + 10 * t);
}
Stack.setXUnit("micron");
run("Properties...", "channels=2 slices=3 frames=4 unit=micron " +
  "pixel_width=0.325 pixel_height=0.325 voxel_depth=2");
saveAs("tiff", folder + "stack.tif");
"""


def run(macro, folder):
    """What ImageJ makes of a macro, whose argument is the folder."""
    (folder / "macro.ijm").write_text(macro)
    command = "xvfb-run", "-a", "java", "-cp", str(JAR), "ij.ImageJ", "-batch"
    done = subprocess.run(
        [*command, folder / "macro.ijm", f"{folder}/"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert not done.returncode, done.stderr


@pytest.mark.parametrize("seed", range(2))
def test_the_objects_are_the_same_pixels_in_imagej(tmp_path, seed):
    labels = test_vectors.drawn(seed)  # with holes, and of several parts
    found = test_vectors.found_in(labels)
    write.write_labels(tmp_path / "a_labels.tif", labels, (0.325, 0.25))
    vectors.write_rois(tmp_path / "a_rois.zip", test_vectors.IMAGE, found)
    run(EXACT, tmp_path)
    size, *lines = (tmp_path / "out.txt").read_text().splitlines()
    unit, width, height, depth = size.split()
    assert unit in ("micron", "µm", "microns") and depth == "16"
    assert (float(width), float(height)) == pytest.approx((0.25, 0.325))
    areas = np.bincount(labels.ravel())
    expected = [[i, areas[i], i, i] for i in range(1, len(areas))]
    assert [list(map(float, line.split())) for line in lines] == expected


def by_hand(rng):
    """A ROI of random points, at whole, half or any numbers: they cross."""
    points = rng.uniform(-9, 89, (int(rng.integers(3, 40)), 2))
    grid = rng.choice([1, 2, 1000])
    points = np.round(points * grid) / grid
    kind = np.int32 if grid == 1 else np.float32
    roi = roifile.ImagejRoi.frompoints(points.astype(kind))
    kinds = roifile.ROI_TYPE
    roi.roitype = [kinds.FREEHAND, kinds.POLYGON, kinds.TRACED][rng.integers(3)]
    return roi


def composite(rng):
    rings = [
        rng.integers(0, 120, (int(rng.integers(3, 12)), 2)) / 2
        for _ in range(3)
    ]
    return vectors._composite([np.ceil(ring) for ring in rings], "a")


def boxed(rng):
    roi = roifile.ImagejRoi()
    kinds = roifile.ROI_TYPE
    roi.roitype = [kinds.OVAL, kinds.RECT][rng.integers(2)]
    roi.top, roi.left = rng.integers(-9, 50, 2).tolist()
    roi.bottom = roi.top + int(rng.integers(10, 40))
    roi.right = roi.left + int(rng.integers(10, 40))
    return roi


def test_rois_are_filled_as_imagej_fills_them(tmp_path):
    rng = np.random.default_rng(0)
    made = [draw(rng) for draw in (by_hand, by_hand, composite, boxed) * 15]
    with zipfile.ZipFile(tmp_path / "rois.zip", "w") as file:
        for i, roi in enumerate(made):
            file.writestr(f"{i:03d}.roi", roi.tobytes())
    run(FILLED, tmp_path)
    expected = tifffile.imread(tmp_path / "filled.tif") > 0
    content = (tmp_path / "rois.zip").read_bytes()
    for own, one in zip(expected, rois.objects(content, "a"), strict=True):
        row, col, inside = one.draw((60, 80))
        found = np.zeros((60, 80), bool)
        found[row : row + len(inside), col : col + inside.shape[1]] = inside
        np.testing.assert_array_equal(found, own, one.where)


def test_a_hyperstack_of_imagej_is_read(tmp_path):
    run(STACK, tmp_path)
    path = tmp_path / "stack.tif"
    for t, z in itertools.product(range(4), range(3)):
        image = read.read_image(path, select=f"T={t},Z={z}")
        assert image.shape == (7, 9, 2) and image.dtype == np.uint16
        level = 100 * (z + 1) + 10 * (t + 1)
        expected = np.zeros_like(image)
        expected[6, 8] = 1000 + level, 2000 + level
        np.testing.assert_array_equal(image, expected)
    size = about.read_about(path).pixel_size
    assert size == pytest.approx((0.325, 0.325))
