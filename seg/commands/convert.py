"""seg convert INPUT... --out=DIR --formats=geojson,roi,coco

Turns objects, of seg or of other programs, from one format into others. INPUT
is a file or a folder: label images (PNG, TIFF, .npy, OME-Zarr), GeoJSON
(QuPath), ROIs (Fiji), COCO, LabelMe, Kaggle's run lengths. GeoJSON, ROIs and
run lengths do not say how large their image is: give --images, a folder with
images of their names, or for one INPUT a file.

Ids of label images stay in labels, OME-Zarr, tables, and the names of ROIs and
of GeoJSON's features. COCO, LabelMe and run lengths hold none: there objects
are in their order, as those of other files are numbered.

    seg convert RoiSet.zip --images=cells.tif --formats=labels,csv --out=cells
    seg convert results --formats=geojson,roi --out=for_qupath_and_fiji
    seg convert annotations.json --images=photos --out=my_cells/masks
"""

import pathlib

from absl import flags as absl_flags

from seg import config, flags
from seg.commands import outcomes

FLAGS = absl_flags.FLAGS


def define(formats: str = "labels") -> None:
    """Registers the flags of this command; formats: the default."""
    absl_flags.DEFINE_string("out", None, "folder for the results")
    absl_flags.DEFINE_string(
        "formats", formats, "what to write, as of seg predict"
    )
    absl_flags.DEFINE_string(
        "images", "", "folder of the images, or the image of one INPUT"
    )
    absl_flags.DEFINE_enum(
        "overlaps",
        "error",
        ["error", "first", "smallest"],
        "which object has the pixels that several have",
    )
    absl_flags.DEFINE_bool("overwrite", False, "replace files that are there")


def main(inputs: list[str], done: str = "converted") -> int:
    """Turns objects from one format into others; returns the exit status.

    done: what that is called.
    """
    from seg.images import formats
    from seg.predict import convert, originals

    if not inputs:
        raise config.UserError("no INPUT; give files or folders")
    out = pathlib.Path(flags.given("out", "DIR")).expanduser().absolute()
    files = convert.expand(inputs)
    outcome = convert.run(
        files,
        out,
        formats.chosen(FLAGS.formats),
        originals.Images(FLAGS.images, files),
        overlaps=FLAGS.overlaps,
        overwrite=FLAGS.overwrite,
    )
    return outcomes.report(outcome, out, done)
