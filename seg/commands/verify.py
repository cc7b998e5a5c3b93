"""seg verify DIR

Lists all defects of a folder (or zip) of labelled images at once. Which
layout it has is found out, unless --data.layout or --experiment says so.
"""

import sys
import typing

from absl import flags as absl_flags

from seg import config as config_lib
from seg import flags

if typing.TYPE_CHECKING:
    from seg.data import layouts

FLAGS = absl_flags.FLAGS


def define() -> None:
    """Registers the flags of this command."""
    flags.define()


def main(inputs: list[str]) -> int:
    """Prints the defects; UserError where there are some."""
    from seg.data import layouts

    (name,) = flags.arguments(inputs, "DIR")
    config = config_lib.replace(flags.resolve(), {"data.path": name})
    if FLAGS.experiment or FLAGS["data.layout"].present:
        defects = layouts.verify(config, progress=sys.stderr.isatty())
    else:
        config, defects = _find_layout(config)
    for defect in defects:
        print(f"{defect.file}: {defect.what}; {defect.remedy}")
    where = f"{name} as data.layout={config.data.layout}"
    if defects:
        n = "1 defect" if len(defects) == 1 else f"{len(defects)} defects"
        raise config_lib.UserError(f"{n} in {where}")
    print(f"no defects in {where}")
    return flags.DONE


def _find_layout(
    config: config_lib.Config,
) -> tuple[config_lib.Config, list["layouts.Defect"]]:
    """The config with the layout that the files have, and their defects.

    Never stardist: its files lie as those of folders, which takes masks for
    object ids wherever they can be nothing else.
    """
    from seg.data import files, layouts

    tree = files.open_tree(config.data.path)
    n_found = {
        layout: len(layouts.FINDERS[layout](tree)[0])
        for layout in ("folders", "dsb2018", "labelme")
    }
    layout = max(n_found, key=n_found.__getitem__)
    config = config_lib.replace(config, {"data.layout": layout})
    return config, layouts.verify(config, progress=sys.stderr.isatty())
