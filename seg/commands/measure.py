"""seg measure LABELS... --images=DIR --out=DIR

Measures the objects of label images, or of what `seg convert` reads: a table
with a row an object, by shape, and with --images by intensity. Images and
labels have equal stems, `_labels` and `_rois` at the end do not count.

    seg measure masks --images=photos --out=measured
"""

from seg.commands import convert


def define() -> None:
    """Registers the flags of this command."""
    convert.define("csv")


def main(inputs: list[str]) -> int:
    """Measures labelled objects; returns the exit status."""
    return convert.main(inputs, "measured")
