"""Files that ImageJ itself opens, and those that it has written.

A real ImageJ runs a macro, without a screen (`apt-get install imagej xvfb`).
"""

import itertools
import pathlib
import shutil
import subprocess

import numpy as np
import pytest

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
    size, *rois = (tmp_path / "out.txt").read_text().splitlines()
    unit, width, height, depth = size.split()
    assert unit in ("micron", "µm", "microns") and depth == "16"
    assert (float(width), float(height)) == pytest.approx((0.25, 0.325))
    areas = np.bincount(labels.ravel())
    expected = [[i, areas[i], i, i] for i in range(1, len(areas))]
    assert [list(map(float, roi.split())) for roi in rois] == expected


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
