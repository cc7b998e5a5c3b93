"""seg export MODEL

Writes the model as one program with its weights and its normalisation
inside: StableHLO for CPU, CUDA and TPU, or ONNX (--format=onnx); into the
bundle, or to --out=FILE. It takes images [B, H, W, C] as they are stored,
and of each `stats` [B, C, S], what seg.normalize.measure finds in the
whole image. It is compared with the model before it is written. Or

    --format=bioimageio --out=FILE.zip    for programs that read bioimage.io's
    --format=bundle --out=DIR             the model alone, to be handed on: in
                                          half precision, without what can be
                                          made again
"""

import dataclasses
import pathlib

from absl import flags as absl_flags

import seg
from seg import config as config_lib
from seg import flags

FLAGS = absl_flags.FLAGS


def define() -> None:
    """Registers the flags of this command."""
    absl_flags.DEFINE_string("out", None, "file; by default in the bundle")
    absl_flags.DEFINE_enum(
        "format",
        "stablehlo",
        ["stablehlo", "onnx", "bioimageio", "bundle"],
        "what to write",
    )
    absl_flags.DEFINE_string("licence", "", "of the model, as CC0-1.0 or MIT")
    absl_flags.DEFINE_string("author", "", "of the model")


def main(inputs: list[str]) -> None:
    """Writes the model; prints where."""
    from seg.images import write
    from seg.predict import bundle
    from seg.predict import export as export_lib

    (name,) = flags.arguments(inputs, "MODEL")
    if name.startswith(("runs:/", "models:/")):
        flags.given("out", "FILE")  # what is fetched from MLflow is a copy
    folder = seg.find(name)
    found = bundle.load(folder)
    told = {k: FLAGS[k].value for k in ("licence", "author") if FLAGS[k].value}
    found = dataclasses.replace(found, meta={**found.meta, **told})
    if FLAGS.format == "bundle":
        target = pathlib.Path(flags.given("out", "DIR"))
        if target.resolve() == folder.resolve():
            raise config_lib.UserError(
                f"--out={FLAGS.out} is the model itself; give another folder"
            )
        alone = dataclasses.replace(found, exports={})
        print(bundle.save(alone, target, half=True))
        return
    if FLAGS.format == "bioimageio":
        from seg.predict import bioimage

        title = pathlib.Path(name).name
        print(bioimage.package(found, flags.given("out", "FILE.zip"), title))
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
