"""seg verify DIR

Lists all defects of a folder (or zip) of labelled images at once. Which
layout it has is found out, unless --data.layout or --experiment says so.

    seg verify my_cells
"""

import sys

from absl import flags as absl_flags

from seg import config as config_lib
from seg import flags

FLAGS = absl_flags.FLAGS


def define() -> None:
    """Registers the flags of this command."""
    flags.define()


def main(inputs: list[str]) -> int:
    """Prints the defects; UserError where there are some."""
    from seg.data import layouts

    (name,) = flags.arguments(inputs, "DIR")
    config = config_lib.replace(flags.resolve(), {"data.path": name})
    if not (FLAGS.experiment or FLAGS["data.layout"].present):
        layout = layouts.guess(name)
        config = config_lib.replace(config, {"data.layout": layout})
    defects = layouts.verify(config, progress=sys.stderr.isatty())
    for defect in defects:
        print(f"{defect.file}: {defect.what}; {defect.remedy}")
    where = f"{name} as data.layout={config.data.layout}"
    if defects:
        n = "1 defect" if len(defects) == 1 else f"{len(defects)} defects"
        raise config_lib.UserError(f"{n} in {where}")
    print(f"no defects in {where}")
    return flags.DONE
