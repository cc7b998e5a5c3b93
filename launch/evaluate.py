"""Scores a trained model on whole images, beside Otsu's threshold.

python -m launch.evaluate --workdir=runs/demo [--split=test]
python -m launch.evaluate --model=BUNDLE --experiment=FILE --out=DIR
python -m launch.evaluate --model=runs/demo/snapshots --out=DIR

The scores, with 95 % intervals, are printed and written with overlays, the
objects and a table by image into WORKDIR/test (or --out), and recorded in the
run that was trained there, with the model and the settings of prediction as
tags; the files of another split than test lie there in a folder of its name.
Several models, as the snapshots of a run or BUNDLE,BUNDLE, are scored as their
mean.
Exit status: 0 done, 2 bad input.
"""

import dataclasses
import pathlib
import typing
from typing import Any

from absl import flags

from seg import compiler
from seg import config as config_lib
from seg import flags as seg_flags

if typing.TYPE_CHECKING:
    from seg.predict import bundle

FLAGS = flags.FLAGS


def define() -> None:
    """The flags of this command."""
    seg_flags.define()
    flags.DEFINE_string("workdir", None, "folder of the run")
    flags.DEFINE_string("model", None, "what to score, if not the workdir's")
    flags.DEFINE_string("tiles", "", "a pack in place of data.dir")
    flags.DEFINE_string("out", None, "folder of the results")
    flags.DEFINE_enum("split", "test", ["train", "val", "test"], "which images")
    flags.DEFINE_bool("baseline", True, "score Otsu's threshold beside it")


def main(argv: list[str]) -> int:
    """Scores as the flags say."""
    seg_flags.no_arguments(argv)
    seg_flags.show_log()
    import seg
    from seg.evaluate import baseline, report
    from seg.predict import bundle, predictor
    from seg.train import run

    workdir = None if FLAGS.model else seg_flags.workdir()
    if workdir and (workdir / "model.json").is_file():
        raise config_lib.UserError(
            f"--workdir={workdir} is a model, no run; give "
            f"--model={workdir} --out=DIR"
        )
    if workdir and not (workdir / "config.json").is_file():
        raise config_lib.UserError(
            f"--workdir={workdir}: nothing was trained there, it holds no "
            "config.json; give the folder of a run, or --model=BUNDLE"
        )
    if FLAGS.model and not FLAGS.out:
        raise config_lib.UserError(
            "where shall the results go? give --out=DIR with --model"
        )
    found, *others = map(bundle.load, seg.find_all(FLAGS.model or workdir))
    config = _config(found.config, workdir)
    # JAX, as in the validations: scores compare, whatever is installed here
    predict = predictor.Predictor(
        found, config.predict, engine="jax", others=others
    )
    data = run.records_of(config, FLAGS.tiles)
    split = FLAGS.split
    out = pathlib.Path(FLAGS.out or workdir / split)
    try:  # before it is known what to write there
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise config_lib.UserError(
            f"{out}: cannot be written ({error.strerror}); choose another --out"
        ) from error

    def score(predict, **kwargs):
        images = (data.read(split, i) for i in range(data.n(split)))
        return report.evaluate(predict, images, config.classes, split, **kwargs)

    scores = score(
        lambda record: predict(
            record["image"], name=record["id"], stats=record["stats"]
        ),
        folder=out,
        n_overlays=config.track.n_overlays,
        settings=_settings([found, *others], config),
    )
    table = {config.model.name: scores}
    if FLAGS.baseline:
        for name, otsu in baseline.BASELINES.items():
            table[name] = score(otsu)
    print(report.summary(table))
    print(f"overlays, objects and scores are in {out}")
    if workdir is not None:
        run.record(config, workdir, found.meta["step"], scores)
    return seg_flags.DONE


def _settings(
    found: list["bundle.Bundle"], config: config_lib.Config
) -> dict[str, Any]:
    """What the scores were measured with: the model, and how it predicted."""
    from seg.predict import ensemble

    return {"model": ensemble.digest(found)} | {
        f"predict.{name}": value
        for name, value in dataclasses.asdict(config.predict).items()
    }


def _config(
    trained: config_lib.Config, workdir: pathlib.Path | None
) -> config_lib.Config:
    """The trained config with what this command line changes.

    An experiment file may have changed since in how it predicts; a model from
    elsewhere takes its data from there too.
    """
    if FLAGS.experiment:
        own = seg_flags.load_experiment(FLAGS.experiment)
        trained = dataclasses.replace(trained, predict=own.predict)
        if workdir is None:
            trained = dataclasses.replace(own, model=trained.model)
    trained = seg_flags.unredacted(trained)
    changed = config_lib.replace(trained, seg_flags.overrides())
    return config_lib.check(changed)


if __name__ == "__main__":
    compiler.restart()
    define()
    seg_flags.run(main)
