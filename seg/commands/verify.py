"""seg verify DIR

Lists all defects of a folder (or zip) of labelled images at once. Which
layout it has is found out, unless --data.layout or --experiment says so, and
labels of LabelMe are taken as the classes, unless --classes names those.

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
    config = _resolve(name)
    defects = layouts.verify(config, progress=sys.stderr.isatty())
    for defect in defects:
        print(f"{defect.file}: {defect.what}; {defect.remedy}")
    where = f"{name} as data.layout={config.data.layout}"
    if defects:
        n = "1 defect" if len(defects) == 1 else f"{len(defects)} defects"
        raise config_lib.UserError(f"{n} in {where}")
    print(f"no defects in {where}")
    return flags.DONE


def _resolve(path: str) -> config_lib.Config:
    """The config; without an experiment the files tell layout and classes."""
    from seg.data import layouts

    if FLAGS.experiment:
        return config_lib.replace(flags.resolve(), {"data.path": path})
    config = config_lib.Config()
    given = flags.overrides()
    layout = given.get("data.layout") or layouts.guess(path)
    changes = {**given, "data.path": path, "data.layout": layout}
    config = config_lib.replace(config, changes)
    if layout in layouts.NAMED and not {"classes", "data.aliases"} & set(given):
        # what is drawn, as seg train takes it
        classes = ("background", *layouts.drawn_names(config))
        if len(classes) > 1:
            config = config_lib.replace(config, {"classes": classes})
    if "model.n_classes" not in given:  # nothing is trained
        n = len(config.classes)
        outputs = {"model.n_classes": 1 if n == 2 else n}
        config = config_lib.replace(config, outputs)
    return config_lib.check(config)
