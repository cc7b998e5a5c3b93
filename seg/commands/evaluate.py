"""seg evaluate DIR --model=MODEL

Scores a model on a folder (or zip) of labelled images, all of them: Dice, IoU,
average precision of objects, errors of the count. Or, with --labels=RESULTS,
what any other program has found: its label images, or what `seg convert`
reads, named as the images are. With --out it writes scores, tables and
pictures too.

    seg evaluate my_cells --model=nuclei
    seg evaluate my_cells --labels=cellpose_results --out=report
"""

import collections
import pathlib
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import flags as absl_flags

import seg
from seg import config as config_lib
from seg import flags

if typing.TYPE_CHECKING:
    from seg.data import sample

FLAGS = absl_flags.FLAGS
Found = Callable[[dict[str, Any]], Any]


def define() -> None:
    """Registers the flags of this command."""
    absl_flags.DEFINE_string("model", None, "name, folder or URI of the model")
    absl_flags.DEFINE_string(
        "labels", None, "folder of label images, in place of a model"
    )
    absl_flags.DEFINE_string("out", None, "folder for the report")
    flags.define(
        ("data", "predict", "classes"),
        experiment=False,
        default="as the model or the files have it",
    )


def main(inputs: list[str]) -> int:
    """Prints the scores; returns the exit status."""
    from seg.data import layouts
    from seg.evaluate import report

    (name,) = flags.arguments(inputs, "DIR")
    if bool(FLAGS.model) == bool(FLAGS.labels):
        raise config_lib.ConfigError(
            "give --model=MODEL or --labels=DIR, one of them"
        )
    given = {"data.path": name, **flags.overrides()}
    given.setdefault("data.layout", layouts.guess(name))
    base = config_lib.Config()
    if FLAGS.model:
        config, found = _of_model(base, given)
    else:
        config = config_lib.replace(base, given)
        n = len(config.classes)
        outputs = {"model.n_classes": 1 if n == 2 else n}
        config = config_lib.check(config_lib.replace(config, outputs))
        found = _of_labels(FLAGS.labels, config.classes)
    samples = layouts.scan(config)
    scores = report.evaluate(
        found,
        _records(samples),
        config.classes,
        "all",
        folder=FLAGS.out,
        intervals=len(samples) > 1,
    )
    of = FLAGS.model or FLAGS.labels
    print(f"{len(samples)} images\n{report.summary({of: scores})}")
    if FLAGS.out:
        print(f"overlays, objects and scores are in {FLAGS.out}")
    return flags.DONE


def _records(samples: "list[sample.Sample]") -> Iterator[dict[str, Any]]:
    shown: Any = samples
    if sys.stderr.isatty():
        import tqdm

        shown = tqdm.tqdm(samples, unit="image")
    for one in shown:
        yield {**one.load(), "id": one.id, "group": one.group}


def _of_model(
    base: config_lib.Config, given: dict[str, Any]
) -> tuple[config_lib.Config, Found]:
    """The config to read labelled images by, and what segments them."""
    changed = {
        k.partition(".")[2]: v
        for k, v in given.items()
        if k.startswith("predict.")
    }
    predictor = seg.load(FLAGS.model, engine="jax", **changed)
    knobs = {k: v for k, v in given.items() if not k.startswith("predict.")}
    config = config_lib.replace(
        base,
        {
            "classes": predictor.classes,
            "model.n_classes": predictor.config.model.n_classes,
            "model.in_channels": predictor.config.model.in_channels,
            **knobs,
        },
    )

    def found(record: dict[str, Any]) -> Any:
        image = record["image"]
        channels = predictor.probabilities(image)
        return predictor.objects(image, channels, record["id"])

    return config_lib.check(config), found


def _of_labels(folder: str, classes: Sequence[str]) -> Found:
    from seg.data import annotations
    from seg.predict import convert

    files = {
        path.stem.removesuffix("_labels").removesuffix("_rois"): path
        for path in convert.expand([folder])
    }

    kinds = {name: k for k, name in enumerate(classes) if k}
    if len(classes) == 2:  # whatever it is called, it is the one class
        kinds = collections.defaultdict(lambda: 1)

    def found(record: dict[str, Any]) -> Any:
        name, shape = record["id"], record["classes"].shape
        stem = pathlib.PurePosixPath(name).name
        path = files.get(stem) or files.get(pathlib.Path(stem).stem)
        if path is None:
            raise config_lib.UserError(
                f"--labels={folder}: nothing for image {name!r}; give labels "
                "named like the images"
            )
        every = list(annotations.read_all(path))
        if len(every) != 1:
            raise config_lib.UserError(
                f"{path}: {len(every)} images; give a file for each image"
            )
        one = every[0].read(lambda *_: shape, "first")
        unknown = sorted(set(one.names) - kinds.keys())
        if unknown and len(classes) > 2:
            raise config_lib.UserError(
                f"{path}: " + config_lib.unknown("class", unknown[0], kinds)
            )
        if one.labels.shape != shape:
            raise config_lib.UserError(
                f"{path}: {one.labels.shape[0]}x{one.labels.shape[1]} px, the "
                f"image has {shape[0]}x{shape[1]}; nothing is resized here"
            )
        return convert.segmented(one, record["image"], name, name, kinds)

    return found
