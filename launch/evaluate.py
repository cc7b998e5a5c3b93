"""Scores a trained model on whole images, beside Otsu's threshold.

python -m launch.evaluate --workdir=runs/demo [--split=test]
python -m launch.evaluate --model=BUNDLE --experiment=FILE --out=DIR
python -m launch.evaluate --model=runs/demo/snapshots --out=DIR
python -m launch.evaluate --workdir=runs/demo --split=val --tune

The scores, with 95 % intervals, are printed and written with overlays, the
objects and a table by image into WORKDIR/test (or --out), and recorded in the
run that was trained there, with the model and the settings of prediction as
tags; the files of another split than test lie there in a folder of its name.
Several models, as the snapshots of a run or BUNDLE,BUNDLE, are scored as their
mean. With --tune the threshold, the prominence and the least area that score
best on the validation images are found first, then what makes a probability of
an object the share that is right, and the least one; the model keeps them.
Exit status: 0 done, 2 bad input.
"""

import dataclasses
import pathlib
import typing
from collections.abc import Iterator
from typing import Any

from absl import flags

from seg import compiler
from seg import config as config_lib
from seg import flags as seg_flags

if typing.TYPE_CHECKING:
    from seg.data import records
    from seg.evaluate import tuning
    from seg.predict import bundle, predictor

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
    flags.DEFINE_bool("tune", False, "choose settings by --split=val, for good")
    flags.DEFINE_string("monitor", "ap_mean", "score that --tune makes best")


def main(argv: list[str]) -> int:
    """Scores as the flags say."""
    seg_flags.no_arguments(argv)
    seg_flags.show_log()
    import seg
    from seg.evaluate import baseline, report, tuning
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
    folders = seg.find_all(FLAGS.model or workdir)
    found, *others = map(bundle.load, folders)
    _check_tune(len(folders))
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

    def images() -> Iterator["records.Record"]:
        return (data.read(split, i) for i in range(data.n(split)))

    seen = (
        tuning.Seen(
            record, predict.probabilities(record["image"], record["stats"])
        )
        for record in images()
    )
    settings = predict.config.predict
    if FLAGS.tune:
        seen = list(seen)  # the network runs once
        settings = _tuned(predict, seen, folders[0], out)
    scores = tuning.score(
        predict,
        seen,
        settings,
        split,
        folder=out,
        n_overlays=config.track.n_overlays,
        settings=_settings([found, *others], settings),
    )
    table = {config.model.name: scores}
    if FLAGS.baseline:
        for name, otsu in baseline.BASELINES.items():
            table[name] = report.evaluate(otsu, images(), config.classes, split)
    print(report.summary(table))
    print(f"overlays, objects and scores are in {out}")
    if workdir is not None:
        run.record(config, workdir, found.meta["step"], scores)
    return seg_flags.DONE


def _settings(
    found: list["bundle.Bundle"], predict: config_lib.Predict
) -> dict[str, Any]:
    """What the scores were measured with: the model, and how it predicted."""
    from seg.predict import ensemble

    return {"model": ensemble.digest(found)} | {
        f"predict.{name}": value
        for name, value in dataclasses.asdict(predict).items()
    }


def _check_tune(n_models: int) -> None:
    if not FLAGS.tune:
        return
    if FLAGS.split != "val" or n_models > 1:
        raise config_lib.UserError(
            "--tune chooses the settings of one model by its validation "
            "images; give --split=val and one model"
        )
    if (FLAGS.model or "").startswith(("runs:/", "models:/")):
        raise config_lib.UserError(
            f"--model={FLAGS.model}: what is fetched from MLflow is a copy; "
            "--tune takes a run's --workdir or a bundle's folder"
        )


def _tuned(
    use: "predictor.Predictor",
    seen: "list[tuning.Seen]",
    folder: pathlib.Path,
    out: pathlib.Path,
) -> config_lib.Predict:
    """The best settings, which the bundle in the folder keeps from now on."""
    from seg.evaluate import tuning
    from seg.images import formats
    from seg.predict import bundle

    chosen = tuning.tune(use, seen, FLAGS.monitor)
    formats.write_table(out / "tried.csv", chosen.rows, list(chosen.rows[0]))
    about = {
        "images": len(seen),
        f"val/{FLAGS.monitor}": chosen.value,
        "calibration error": chosen.after,
    }
    bundle.settle(folder, use.bundle, chosen.predict, {"tuned": about})
    before = use.config.predict
    for name, value in vars(chosen.predict).items():
        if value != getattr(before, name):
            print(f"predict.{name}: {getattr(before, name)} -> {value}")
    print(
        f"val/{FLAGS.monitor}: {chosen.rows[0][FLAGS.monitor]:.4f} -> "
        f"{chosen.value:.4f} (the best of {len(chosen.rows)} settings)\n"
        f"calibration error: {chosen.before:.3f} -> {chosen.after:.3f} (fitted "
        "on one half of the images, measured on the other)"
    )
    return chosen.predict


def _config(
    trained: config_lib.Config, workdir: pathlib.Path | None
) -> config_lib.Config:
    """The trained config with what this command line changes.

    An experiment file may have changed since in how it predicts. For a model
    from elsewhere it says what the data are: the model keeps what was tuned.
    """
    if FLAGS.experiment:
        own = seg_flags.load_experiment(FLAGS.experiment)
        if workdir is None:
            kept = {"model": trained.model, "predict": trained.predict}
            trained = dataclasses.replace(own, **kept)
        else:
            trained = dataclasses.replace(trained, predict=own.predict)
    trained = seg_flags.unredacted(trained)
    changed = config_lib.replace(trained, seg_flags.overrides())
    return config_lib.check(changed)


if __name__ == "__main__":
    compiler.restart()
    define()
    seg_flags.run(main)
