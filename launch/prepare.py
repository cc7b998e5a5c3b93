"""Prepares the records of an experiment: once, before training.

    python -m launch.prepare --experiment=experiments/dsb2018_unet.py \\
        --data.path=dsb2018.zip

checks the raw files, lists every defect, and writes records to data.dir. Safe
to kill and run again; when all is done it says so. `--verify_only` stops after
the check. `--pack=FILE.npz` also writes one file that trains without
TensorFlow: launch.train --tiles=FILE.npz.
"""

import sys

from absl import flags

from seg import config as config_lib
from seg import flags as seg_flags

FLAGS = flags.FLAGS


def define() -> None:
    """The flags of this command."""
    seg_flags.define()
    flags.DEFINE_bool("verify_only", False, "check the raw files, no more")
    flags.DEFINE_string("pack", "", "npz file to write the records to")
    flags.DEFINE_list(
        "pack_splits", ["train", "val"], "what to pack: train, val, test"
    )


def main(argv: list[str]) -> int:
    """Prepares as the flags say."""
    seg_flags.no_arguments(argv)
    config = seg_flags.resolve()
    # TFDS takes a second to import: only after the flags are right.
    from seg.data import dataset, layouts, records

    for split in FLAGS.pack_splits:
        if split not in records.SPLITS:
            raise config_lib.ConfigError(
                config_lib.unknown("split", split, records.SPLITS)
            )
    try:
        if FLAGS.verify_only:
            if defects := layouts.verify(config, progress=True):
                raise dataset.DefectsError(config.data.path, defects)
            print(f"no defects in {config.data.path or 'drawn data'}")
            return seg_flags.DONE
        prepared = dataset.prepare(config)
    except dataset.DefectsError as error:
        for defect in error.defects:
            print(defect, file=sys.stderr)
        raise
    for split in records.SPLITS:
        whole = config.data.split != "tiles" or split == "test"
        print(f"{split}: {prepared.n(split)} {'images' if whole else 'tiles'}")
    if FLAGS.pack:
        records.pack(prepared, config, FLAGS.pack, FLAGS.pack_splits)
        print(f"packed {', '.join(FLAGS.pack_splits)} into {FLAGS.pack}")
    return seg_flags.DONE


if __name__ == "__main__":
    define()
    seg_flags.run(main)
