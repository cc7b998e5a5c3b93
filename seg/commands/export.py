"""seg export MODEL

Writes the model as one program with its weights and its normalisation
inside: StableHLO for CPU, CUDA and TPU, or ONNX (--format=onnx); into the
bundle, or to --out=FILE. It takes images [B, H, W, C] as they are stored,
and of each `stats` [B, C, S], what seg.normalize.measure finds in the
whole image. It is compared with the model before it is written. Of a model
that comes along it goes here, as ./nuclei.onnx. Or

    --format=bioimageio --out=FILE.zip    for programs that read bioimage.io's
    --format=bundle --out=DIR             the model alone, to be handed on: in
                                          half precision, without what can be
                                          made again and where it was made
"""

import dataclasses
import pathlib
import typing

from absl import flags as absl_flags

import seg
from seg import config as config_lib
from seg import flags

if typing.TYPE_CHECKING:
    from seg.predict import bundle as bundle_lib

FLAGS = absl_flags.FLAGS
# knobs that may name a file or a folder of the machine it was trained on
_PLACES = (
    "data.path", "data.dir", "data.exclude", "data.hard", "model.encoder",
    "train.start",
)  # fmt: skip


def define() -> None:
    """Registers the flags of this command."""
    absl_flags.DEFINE_string(
        "out",
        None,
        "file; by default in the bundle, or here for one that comes along",
    )
    absl_flags.DEFINE_enum(
        "format",
        "stablehlo",
        ["stablehlo", "onnx", "bioimageio", "bundle"],
        "what to write",
    )
    absl_flags.DEFINE_string("licence", "", "of the model, as CC0-1.0 or MIT")
    absl_flags.DEFINE_string("author", "", "of the model")
    absl_flags.DEFINE_bool("overwrite", False, "replace what is there")


def main(inputs: list[str]) -> None:
    """Writes the model; prints where."""
    from seg.predict import bundle

    (name,) = flags.arguments(inputs, "MODEL")
    if name.startswith(("runs:/", "models:/")):
        flags.given("out", "FILE")  # what is fetched from MLflow is a copy
    folder = seg.find(name)
    found = bundle.load(folder)
    told = {k: FLAGS[k].value for k in ("licence", "author") if FLAGS[k].value}
    found = dataclasses.replace(found, meta={**found.meta, **told})
    try:
        target = _written(found, folder, pathlib.Path(name).name)
    except OSError as error:
        place = f"--out={FLAGS.out}" if FLAGS.out else error.filename
        raise config_lib.UserError(
            f"{place}: {error.strerror}; choose another place"
        ) from error
    print(target)


def _written(
    found: "bundle_lib.Bundle", folder: pathlib.Path, title: str
) -> pathlib.Path:
    """Writes the model of a folder; gives where."""
    from seg.images import write
    from seg.predict import bundle
    from seg.predict import export as export_lib

    if FLAGS.format == "bundle":
        target = pathlib.Path(flags.given("out", "DIR"))
        if target.resolve() == folder.resolve():
            raise config_lib.UserError(
                f"--out={FLAGS.out} is the model itself; give another folder"
            )
        alone = dataclasses.replace(
            found, config=_of_nowhere(found.config), exports={}
        )
        return bundle.save(alone, _free(target), half=True)
    if FLAGS.format == "bioimageio":
        from seg.predict import bioimage

        target = pathlib.Path(flags.given("out", "FILE.zip"))
        return bioimage.package(found, _free(target), title)
    file, make = export_lib.FORMATS[FLAGS.format]
    target = pathlib.Path(FLAGS.out or folder / file)
    if not FLAGS.out and folder.parent == seg.ZOO:  # the package's, not ours
        target = pathlib.Path(folder.name).with_suffix(target.suffix)
    if target == folder / file:
        bundle.add_files(folder, found, {file: make(found)})
        return target
    with write.whole(_free(target)) as temporary:
        temporary.write_bytes(make(found))
    return target


def _of_nowhere(config: config_lib.Config) -> config_lib.Config:
    """The settings without what concerns nobody else: server and folders."""
    flat = config_lib.to_flat(config)
    paths = (
        path
        for path in _PLACES
        if pathlib.PurePath(flat[path] or "").is_absolute()
    )
    names = {path: pathlib.PurePath(flat[path]).name for path in paths}
    return config_lib.replace(config, {**names, "track.uri": ""})


def _free(target: pathlib.Path) -> pathlib.Path:
    """A place to write to; UserError where something is that stays."""
    if target.exists() and not FLAGS.overwrite:
        raise config_lib.UserError(
            f"{target} is there already; give --overwrite, or another --out"
        )
    return target
