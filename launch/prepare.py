"""Prepares the records of an experiment: once, before training.

    python -m launch.prepare --experiment=experiments/dsb2018_unet.py \\
        --data.path=dsb2018.zip

checks the raw files, lists every defect, and writes records to data.dir. Safe
to kill and run again; when all is done it says so. `--verify_only` stops after
the check. `--pack=FILE.npz` also writes one file that trains without
TensorFlow: launch.train --tiles=FILE.npz.
"""

import sys

from absl import flags as absl_flags

from seg import config as config_lib
from seg import flags


def define() -> None:
    """The flags of this command."""
    flags.define()
    absl_flags.DEFINE_bool("verify_only", False, "check the raw files, no more")
    absl_flags.DEFINE_string("pack", None, "npz file to write the records to")
    absl_flags.DEFINE_list(
        "pack_splits", ["train", "val"], "what to pack: train, val, test"
    )


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit status."""
    if argv:
        raise config_lib.UserError(
            f"unexpected argument {argv[0]!r}; every knob is a flag, see --help"
        )
    config = flags.resolve()
    # Importing TensorFlow takes seconds: only after the flags are right.
    from seg.data import dataset, layouts, records

    splits = absl_flags.FLAGS.pack_splits
    for split in splits:
        if split not in records.SPLITS:
            raise config_lib.UserError(
                config_lib.unknown("split", split, records.SPLITS)
            )
    try:
        if absl_flags.FLAGS.verify_only:
            if defects := layouts.verify(config):
                raise dataset.DefectsError(config.data.path, defects)
            print(f"no defects in {config.data.path or 'drawn data'}")
            return flags.DONE
        prepared = dataset.prepare(config)
    except dataset.DefectsError as error:
        for defect in error.defects:
            line = f"{defect.file}: {defect.what}; {defect.remedy}"
            print(line, file=sys.stderr)
        raise
    for split in records.SPLITS:
        print(f"{split}: {prepared.n(split)} images")
    if path := absl_flags.FLAGS.pack:
        records.pack(prepared, config, path, splits)
        print(f"packed {', '.join(splits)} into {path}")
    return flags.DONE


if __name__ == "__main__":
    define()
    flags.run(main)
