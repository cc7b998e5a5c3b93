"""The installed command.

    seg predict INPUT... --model=MODEL --out=DIR    images -> objects, tables
    seg info MODEL                                  what a model is
    seg export MODEL                                one portable program
    seg verify DIR                                  all defects of a data set
    seg track-sync DIR                              upload a spool to MLflow

`seg COMMAND --help` lists its flags. MODEL is a name, a bundle's folder, a
workdir of training, or an MLflow URI. Exit status: 0 done; 2 bad input or
configuration, or every input failed; 3 finished, but some inputs failed;
33 stopped by a signal: what is finished is saved, the same command goes on.
"""

import dataclasses
import inspect
import pathlib
import sys
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from absl import flags as absl_flags

import seg
from seg import config as config_lib
from seg import flags

if typing.TYPE_CHECKING:
    from seg.data import layouts
    from seg.predict import bulk
    from seg.predict.predictor import Predictor

# Everything heavier is imported by the command that needs it, so that --help
# and a mistyped flag answer at once.

FLAGS = absl_flags.FLAGS


def predict(inputs: list[str]) -> int:
    """seg predict INPUT... --model=MODEL --out=DIR

    Segments images. INPUT is a file, a folder or a glob. For each image:
    <stem>_labels.tif, <stem>_overlay.png and what else --formats names; for
    all: objects.csv. The same command, run again, skips what is finished.
    """
    from seg.images import formats
    from seg.predict import bulk, bundle, engine, ensemble, scaled
    from seg.train import stop

    if not inputs:
        raise config_lib.UserError("no INPUT; give files, folders or globs")
    names = FLAGS.formats.replace(" ", "").split(",")
    for name in names:
        if name not in formats.FORMATS:
            raise config_lib.UserError(
                config_lib.unknown("format", name, formats.FORMATS)
            )
    out = pathlib.Path(_given("out", "DIR")).expanduser().absolute()
    folders = seg.find_all(_given("model", "MODEL"))
    images = bulk.expand(inputs, out)
    models = [bundle.load(folder) for folder in folders]
    config = config_lib.replace(models[0].config, flags.overrides())
    scaled.known_zoom(config_lib.check(config))  # or it is refused
    settings = {
        "seg": seg.__version__,
        "model": ensemble.digest(models),
        "engine": engine.identity(FLAGS.engine),
        "predict": dataclasses.asdict(config.predict),
    }
    with stop.Signals() as signals:

        def predictor() -> "Predictor":
            from seg.predict import predictor

            return predictor.kept(
                folders,
                models,
                predict=config.predict,
                engine=FLAGS.engine,
                on_batch=signals.check,
            )

        try:
            outcome = bulk.run(
                images,
                out,
                names,
                settings,
                predictor,
                overwrite=FLAGS.overwrite,
                select=FLAGS.select,
                progress=lambda items: _progress(items, signals.check),
                check=signals.check,
            )
        except stop.Interrupted as error:
            raise flags.Stopped(
                f"{error}; finished images are saved, the same command goes "
                "on from there"
            ) from error
    return _report(outcome, out)


def _predict_flags() -> None:
    absl_flags.DEFINE_string(
        "model",
        None,
        "name, folder or URI of the model; of several, with commas between, "
        "the mean",
    )
    absl_flags.DEFINE_string("out", None, "folder for the results")
    absl_flags.DEFINE_string(
        "formats",
        "labels,overlay,csv",
        "what to write: labels, classes, overlay, boxes, crops, "
        "probabilities, uncertainty, omezarr, geojson (QuPath), roi (Fiji), "
        "labelme, coco, rle (Kaggle), csv; images = a row an image, the one "
        "most worth labelling first",
    )
    absl_flags.DEFINE_string(
        "engine", "auto", "what runs the network: auto, jax, onnx or openvino"
    )
    absl_flags.DEFINE_bool("overwrite", False, "do finished images again")
    absl_flags.DEFINE_string(
        "select", "", "plane of a stack, as Z=3 or Z=3,T=0"
    )
    flags.define(("predict",), experiment=False, default="the model's")
    for name in ("diameter", "pixel_size"):
        absl_flags.DEFINE_alias(name, f"predict.{name}")


def _given(flag: str, value: str) -> str:
    if not FLAGS[flag].value:
        raise config_lib.UserError(f"no --{flag}; give --{flag}={value}")
    return FLAGS[flag].value


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


def _report(outcome: "bulk.Outcome", out: pathlib.Path) -> int:
    """Says what became of the images; returns the exit status."""
    n_failed = len(outcome.failures)
    if n_failed and not outcome.n_done + outcome.n_skipped:
        path, reason = outcome.failures[0]
        if not reason.startswith(str(path)):
            reason = f"{path}: {reason}"
        if n_failed > 1:
            reason = f"all {n_failed} images failed, as {reason}"
        raise config_lib.UserError(reason)
    again = (
        f", {outcome.n_skipped} finished before" if outcome.n_skipped else ""
    )
    print(f"{outcome.n_done} segmented{again}: {out}")
    if not n_failed:
        return flags.DONE
    print(
        f"warning: {n_failed} of {outcome.n_images} images failed, see "
        f"{out / 'failures.csv'}; the first: {outcome.failures[0][1]}",
        file=sys.stderr,
    )
    return flags.SOME_FAILED


def info(inputs: list[str]) -> None:
    """seg info MODEL

    Prints what a model is: architecture, classes, settings, metrics.
    """
    from seg.predict import bundle

    (name,) = _arguments(inputs, "MODEL")
    folder = seg.find(name)
    model = bundle.load(folder)
    config = model.config
    lines = {
        "folder": folder,
        "network": f"{config.model.name}, {config.model.in_channels} channels, "
        f"{sum(a.size for a in model.weights.values()):,} weights",
        "classes": ", ".join(config.classes),
        "normalize": config.data.normalize,
        **{f"predict.{k}": v for k, v in vars(config.predict).items()},
    }
    for key, value in model.meta.items():
        nested = value if isinstance(value, dict) else {"": value}
        lines |= {f"{key} {name}".strip(): v for name, v in nested.items()}
    width = max(map(len, lines))
    for key, value in lines.items():
        print(f"{key:{width}}  {value}")


def export(inputs: list[str]) -> None:
    """seg export MODEL

    Writes the model as one program with its weights and its normalisation
    inside: StableHLO for CPU, CUDA and TPU, or ONNX (--format=onnx); into the
    bundle, or to --out=FILE. It takes images [B, H, W, C] as they are stored,
    and of each `stats` [B, C, S], what seg.normalize.measure finds in the
    whole image. It is compared with the model before it is written. Or
    (--format=bundle --out=DIR) the model alone, to be handed on: in half
    precision, without what can be made again.
    """
    from seg.images import write
    from seg.predict import bundle
    from seg.predict import export as export_lib

    (name,) = _arguments(inputs, "MODEL")
    if name.startswith(("runs:/", "models:/")):
        _given("out", "FILE")  # what is fetched from MLflow is a copy
    folder = seg.find(name)
    found = bundle.load(folder)
    if FLAGS.format == "bundle":
        if pathlib.Path(_given("out", "DIR")).resolve() == folder.resolve():
            raise config_lib.UserError(
                f"--out={FLAGS.out} is the model itself; give another folder"
            )
        alone = dataclasses.replace(found, exports={})
        print(bundle.save(alone, _given("out", "DIR"), half=True))
        return
    file, make = export_lib.FORMATS[FLAGS.format]
    content = make(found)
    if FLAGS.out:
        target = pathlib.Path(FLAGS.out)
        with write.whole(target) as temporary:
            temporary.write_bytes(content)
    else:
        target = folder / file
        bundle.add_files(folder, found, {file: content})
    print(target)


def _export_flags() -> None:
    absl_flags.DEFINE_string("out", None, "file; by default in the bundle")
    absl_flags.DEFINE_enum(
        "format",
        "stablehlo",
        ["stablehlo", "onnx", "bundle"],
        "what to write",
    )


def verify(inputs: list[str]) -> int:
    """seg verify DIR

    Lists all defects of a folder (or zip) of labelled images at once. Which
    layout it has is found out, unless --data.layout or --experiment says so.
    """
    from seg.data import layouts

    (name,) = _arguments(inputs, "DIR")
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


def track_sync(inputs: list[str]) -> None:
    """seg track-sync DIR

    Uploads what a run without MLflow has spooled in DIR, once.
    """
    from seg.train import tracking

    (name,) = _arguments(inputs, "DIR")
    runs = tracking.sync(name, FLAGS["track.uri"].value)
    for folder, run in runs.items():
        print(f"{folder}: run {run}")


def _arguments(inputs: list[str], *names: str) -> list[str]:
    if len(inputs) != len(names):
        raise config_lib.UserError(
            f"{len(inputs)} arguments; give {' '.join(names)}"
        )
    return inputs


class Command(NamedTuple):
    """What runs it, and what defines its flags."""

    run: Callable[[list[str]], int | None]
    define: Callable[[], None] = lambda: None


COMMANDS = {
    "predict": Command(predict, _predict_flags),
    "info": Command(info),
    "export": Command(export, _export_flags),
    "verify": Command(verify, flags.define),
    "track-sync": Command(
        track_sync, lambda: flags.define(("track",), experiment=False)
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command and exits with its status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(inspect.cleandoc(__doc__))
        sys.exit(flags.DONE if argv else flags.BAD_INPUT)
    if argv[0] == "--version":
        print(seg.__version__)
        sys.exit(flags.DONE)
    name = argv[0]
    if name not in COMMANDS:
        sys.exit(flags.fail(config_lib.unknown("command", name, COMMANDS)))
    command = COMMANDS[name]
    command.define()
    flags.show_log()
    flags.run(
        command.run, [f"seg {name}", *argv[1:]], inspect.getdoc(command.run)
    )


if __name__ == "__main__":
    main()
