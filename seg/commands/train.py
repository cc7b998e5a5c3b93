"""seg train DIR

Trains a model on a folder (or zip) of labelled images: `images/` and `masks/`
with equal names, or outlines of LabelMe, COCO, QuPath or ImageJ. What suits the
images is chosen, and shown; any knob can be given instead. It starts from a
trained model, for which a few images are enough, and says what that has gained
(--model=none: from scratch). Run it again and it goes on; the model is in
WORKDIR/bundle.

    seg train my_cells
    seg predict new_images --model=runs/my_cells --out=results
"""

import pathlib
import typing

from absl import flags as absl_flags

import seg
from seg import compiler, flags
from seg import config as config_lib

if typing.TYPE_CHECKING:
    from seg.data import records
    from seg.evaluate import report
    from seg.predict import bundle

FLAGS = absl_flags.FLAGS


def define() -> None:
    """Registers the flags of this command."""
    absl_flags.DEFINE_string(
        "model", "nuclei", "model to start from; none = from scratch"
    )
    absl_flags.DEFINE_string(
        "workdir", None, "folder of this run; by default runs/ and DIR's name"
    )
    flags.define(experiment=False, default="what suits the images")


def main(inputs: list[str]) -> int:
    """Trains a model; returns the exit status."""
    from seg.train import stop

    (name,) = flags.arguments(inputs, "DIR")
    path = pathlib.Path(name).expanduser()
    own = path.resolve()
    own = own.name if own.is_dir() else own.stem
    workdir = pathlib.Path(FLAGS.workdir or f"runs/{own}")
    with stop.Signals() as signals:
        try:
            return _train(path, workdir, signals)
        except stop.Interrupted as error:
            raise flags.Stopped(
                f"{error}; saved in {workdir}, the same command goes on"
            ) from error


def _train(
    path: pathlib.Path, workdir: pathlib.Path, signals: typing.Any
) -> int:
    config, model = _begun(path, workdir)
    # TFDS takes a second to import, JAX another: only now.
    from seg.data import dataset
    from seg.evaluate import survey
    from seg.train import recipe

    try:
        data = dataset.prepare(config)
    except dataset.DefectsError as error:
        for defect in error.defects:
            print(defect)
        raise
    if not data.n("val"):
        raise config_lib.UserError(
            f"{path}: {data.n('train')} images, of which none is left to "
            "validate on; label two at least"
        )
    found = survey.survey(data, config.classes)
    choices = recipe.choose(found, config, tunes=model is not None)
    given = flags.overrides()
    config = config_lib.check(recipe.applied(config, choices, given))
    print(f"{found.summary()}\n{recipe.explained(choices, given)}", flush=True)
    compiler.configure(config.train.deterministic)
    before = _score(model, data) if model else None
    from seg.predict import bundle
    from seg.train import run

    course = run.train(config, workdir, signals=signals)
    if not (workdir / "bundle").is_dir():
        raise config_lib.UserError(
            f"{config.train.monitor} was never a number: there is no model; "
            "give --train.monitor=val/dice"
        )
    after = _score(bundle.load(workdir / "bundle"), data)
    _say(before, after)
    is_worth, verdict = _verdict(before, after, config.train)
    if verdict:
        print(verdict)
    then = f"seg predict IMAGES --model={workdir} --out=DIR"
    if not is_worth:
        steps = recipe.n_steps(data.n("train"), tunes=model is not None)
        steps = max(steps, 2 * config.train.steps)
        then = (
            f"the same command with --train.steps={steps} "
            f"--workdir={workdir}-2, and more labelled images if you can"
        )
        if before:
            then += f"; until then keep --model={FLAGS.model}"
    print(f"trained for {course.seconds / 60:.1f} min; next: {then}")
    return flags.DONE


def _begun(
    path: pathlib.Path, workdir: pathlib.Path
) -> tuple[config_lib.Config, "bundle.Bundle | None"]:
    """What is known before the images are prepared."""
    from seg.data import layouts
    from seg.predict import bundle
    from seg.train import recipe

    given = flags.overrides()
    model, start = None, ""
    if FLAGS.model != "none":
        folder = seg.find(FLAGS.model)
        model, start = bundle.load(folder), str(folder.resolve())
    changes = {
        "data.path": str(path),
        "data.layout": given.get("data.layout") or layouts.guess(str(path)),
        "data.dir": str(workdir / "data"),
        "train.start": start,
        "track.experiment": "seg train",
    }
    config = config_lib.replace(recipe.base(model), {**changes, **given})
    changes = {}
    if model is None and "model.in_channels" not in given:
        changes["model.in_channels"] = layouts.n_channels(config)
    if config.data.layout in layouts.NAMED and "classes" not in given:
        names = layouts.drawn_names(config)
        if len(names) == 1 and model is not None:
            # the one class, whatever the model calls it
            target = config.classes[1]
            if names[0] != target:
                changes["data.aliases"] = (f"{names[0]}={target}",)
        elif names:
            changes["classes"] = ("background", *names)
    config = config_lib.replace(config, changes)
    n = len(config.classes)
    outputs = 1 if n == 2 else n
    if "model.n_classes" not in given:
        config = config_lib.replace(config, {"model.n_classes": outputs})
    if model is not None and model.config.classes != config.classes:
        model = None  # its scores would be of other classes
    return config_lib.check(config), model


def _score(model: "bundle.Bundle", data: "records.Records") -> "report.Report":
    """Scores on the validation images."""
    from seg.evaluate import tuning
    from seg.predict import predictor

    # JAX, as in the validations: scores compare, whatever is installed here
    use = predictor.Predictor(model, engine="jax")
    records = (data.read("val", i) for i in range(data.n("val")))
    seen = (
        tuning.Seen(one, use.probabilities(one["image"], one["stats"]))
        for one in records
    )
    return tuning.score(use, seen, use.config.predict, intervals=False)


_TITLES = {
    "val/dice": "Dice of the foreground",
    "val/ap50": "AP at IoU .5",
    "val/ap_mean": "mean AP",
    "val/count_error": "error of the count",
}


def _say(before: "report.Report | None", after: "report.Report") -> None:
    """Prints the scores, and what they were before."""
    n = len(after.rows)
    print(f"\nof the {n} validation image{'s' * (n > 1)}:")
    for name, title in _TITLES.items():
        if name not in after.metrics:
            continue
        now = after.metrics[name]
        line = f"  {title:24}{now:.3f}"
        if before and name in before.metrics:
            then = before.metrics[name]
            line += f"   before {then:.3f}, {now - then:+.3f}"
            if name == "val/count_error":
                line += " (less is better)"
        print(line)
    if n == 1:
        print(
            "One image says little: of more labelled images more are kept "
            "aside."
        )


def _verdict(
    before: "report.Report | None",
    after: "report.Report",
    train: config_lib.Train,
) -> tuple[bool, str]:
    """Whether the model is worth using, and why, by `train.monitor`.

    before: of the model that it started from, if there is one to compare.
    """
    n_true, n_found = _total(after, "n_true"), _total(after, "n_found")
    if n_true and not n_found:
        worse = before and _total(before, "n_found")
        than = ": worse than before" if worse else ""
        return False, f"It finds nothing at all, of {n_true} objects{than}."
    if not before:
        return True, ""
    name, lower = train.monitor, train.lower_is_better
    if not all(name in one.metrics for one in (before, after)):
        name, lower = "val/dice", False  # a loss, say: it is not measured here
    now, then = (round(one.metrics[name], 3) for one in (after, before))
    scores = f"{_TITLES.get(name, name)} {now:.3f}, before {then:.3f}"
    if now == then:
        return False, f"No better than before: {scores}."
    if (now < then) == lower:
        return True, f"Better than before: {scores}."
    return False, f"Worse than before: {scores}."


def _total(scores: "report.Report", name: str) -> int:
    """Over the images; those whose objects are not known count nothing."""
    return sum(row.get(name, 0) for row in scores.rows)
