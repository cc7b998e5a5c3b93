"""Looks at the labelled images of an experiment, before it is trained.

    python -m launch.explore --experiment=experiments/dsb2018_unet.py \\
        --data.path=dsb2018.zip

prepares the records where that is not done yet and writes a table of all
images, and pictures of their sizes, intensities, clusters and objects, to
--workdir. They are also recorded in MLflow, as a run of `track.experiment`.
"""

from absl import flags

from seg import config as config_lib
from seg import flags as seg_flags

FLAGS = flags.FLAGS


def define() -> None:
    """The flags of this command."""
    seg_flags.define()
    flags.DEFINE_string("workdir", None, "folder; else runs/explore-NAME")
    flags.DEFINE_string("tiles", "", "a pack in place of the raw images")


def main(argv: list[str]) -> int:
    """Explores as the flags say."""
    seg_flags.no_arguments(argv)
    config = seg_flags.resolve()
    from seg.evaluate import survey
    from seg.train import run, tracking

    out = seg_flags.workdir()
    if not FLAGS.workdir:  # that is the training's
        out = out.with_name(f"explore-{out.name}")
    for kind in ("config", "sweep"):
        if (out / f"{kind}.json").exists():  # MLflow's run there is its own
            raise config_lib.UserError(
                f"--workdir={out} is of a training or a sweep (it has a "
                f"{kind}.json); choose another"
            )
    if FLAGS.tiles:
        data = run.records_of(config, FLAGS.tiles)
    else:
        from seg.data import dataset  # it imports TFDS

        data = dataset.prepare(config)
    found = survey.survey(data, config.classes)
    files = survey.write_all(out, found)
    print(found.summary())
    print(f"the table and the pictures are in {out}")
    tracker = tracking.build(config.track, out)
    tracker.start(config, {"data_digest": data.digest})
    tracker.metrics(0, found.totals(), again=True)
    for path, folder in files.items():
        tracker.artifact(path, folder)
    tracker.finish("FINISHED")
    return seg_flags.DONE


if __name__ == "__main__":
    define()
    seg_flags.run(main)
