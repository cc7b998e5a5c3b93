"""seg predict INPUT... --out=DIR [--model=MODEL]

Segments images. INPUT is a file, a folder or a glob. For each image:
<stem>_labels.tif, <stem>_overlay.png and what else --formats names; for
all: objects.csv. The same command, run again, skips what is finished.
Of a stack, every plane in Z and T is an image, <stem>_t000_z003_labels.tif.

    seg predict my_images --out=results
    seg predict stack.tif --project=max --out=results --formats=labels,roi
    seg predict *.png --model=runs/my_cells --out=results --predict.tta=8
"""

import dataclasses
import pathlib
import sys
import typing
from collections.abc import Callable, Iterable, Sequence

from absl import flags as absl_flags

import seg
from seg import config as config_lib
from seg import flags
from seg.commands import outcomes

if typing.TYPE_CHECKING:
    from seg.predict.predictor import Predictor

FLAGS = absl_flags.FLAGS


def define() -> None:
    """Registers the flags of this command."""
    absl_flags.DEFINE_string(
        "model",
        "nuclei",
        "name, folder or URI of the model; of several, with commas between, "
        "the mean",
    )
    absl_flags.DEFINE_string("out", None, "folder for the results")
    absl_flags.DEFINE_string(
        "formats",
        "labels,overlay,csv",
        "what to write: labels, classes, overlay, boxes, crops, "
        "probabilities, uncertainty, omezarr, geojson (QuPath), roi (Fiji), "
        "labelme, coco, rle (Kaggle), csv, parquet; images = a row an image, "
        "the one most worth labelling first",
    )
    absl_flags.DEFINE_string(
        "engine", "auto", "what runs the network: auto, jax, onnx or openvino"
    )
    absl_flags.DEFINE_bool(
        "overwrite",
        False,
        "do finished images again, and replace files that were not made here "
        "or have changed since; what is corrected in LabelMe stays",
    )
    absl_flags.DEFINE_string(
        "select",
        "",
        "planes and channels, from 0: Z=3,T=0 or C=1 or Z=2-5 or C=0+2; by "
        "default every plane of a stack is an image of its own, and of other "
        "channels than the model's that of a stain of nuclei, if one is named "
        "so and the model is of nuclei",
    )
    absl_flags.DEFINE_string(
        "project",
        "",
        "max or mean: the planes of Z become one, by the largest value or the "
        "mean of each pixel",
    )
    flags.define(("predict",), experiment=False, default="the model's")
    for name in ("diameter", "pixel_size"):
        absl_flags.DEFINE_alias(name, f"predict.{name}")


def main(inputs: list[str]) -> int:
    """Segments images; returns the exit status."""
    from seg.images import axes, formats
    from seg.predict import bulk, bundle, engine, ensemble, scaled
    from seg.predict import inputs as inputs_lib
    from seg.train import stop

    if not inputs:
        raise config_lib.UserError("no INPUT; give files, folders or globs")
    names = formats.chosen(FLAGS.formats)
    out = pathlib.Path(flags.given("out", "DIR")).expanduser().absolute()
    axes.parse(FLAGS.select, "--select")
    if FLAGS.project not in ("", *axes.PROJECTIONS):
        raise config_lib.UserError(
            config_lib.unknown("projection", FLAGS.project, axes.PROJECTIONS)
        )
    found = inputs_lib.expand(inputs)
    models = [bundle.load(folder) for folder in seg.find_all(FLAGS.model)]
    config = config_lib.replace(models[0].config, flags.overrides())
    scaled.known_zoom(config_lib.check(config))  # or it is refused
    settings = {
        "seg": seg.__version__,
        "model": ensemble.digest(models),
        "engine": engine.identity(FLAGS.engine),
        "predict": dataclasses.asdict(config.predict),
    }
    of_nuclei = any(name.startswith("nucle") for name in config.classes)
    if note := str(found):
        print(f"note: {note}", file=sys.stderr)
    with stop.Signals() as signals:

        def predictor() -> "Predictor":
            from seg.predict import predictor

            return predictor.Predictor(
                models[0],
                others=models[1:],
                predict=config.predict,
                engine=FLAGS.engine,
                on_batch=signals.check,
            )

        try:
            outcome = bulk.run(
                found.images,
                out,
                names,
                settings,
                predictor,
                overwrite=FLAGS.overwrite,
                select=FLAGS.select,
                project=FLAGS.project,
                n_channels=config.model.in_channels if of_nuclei else 0,
                progress=lambda items: _progress(items, signals.check),
                check=signals.check,
            )
        except stop.Interrupted as error:
            raise flags.Stopped(
                f"{error}; finished images are saved, the same command goes "
                "on from there"
            ) from error
    return outcomes.report(outcome, out, "segmented")


def _progress(
    images: Sequence[pathlib.Path], check: Callable[[], None]
) -> Iterable[pathlib.Path]:
    """The images, with a bar on a terminal, until a signal comes."""
    shown: Iterable[pathlib.Path] = images
    if sys.stderr.isatty():
        try:
            import tqdm
        except ImportError:  # a bar is not worth a failure
            pass
        else:
            shown = tqdm.tqdm(images, unit="image")
    for image in shown:
        check()
        yield image
