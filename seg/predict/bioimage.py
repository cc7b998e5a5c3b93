"""A model as a package of the BioImage Model Zoo, for programs that read it.

A zip: `rdf.yaml` by version 0.5 of bioimage.io's model description (as JSON,
which is YAML), the network as ONNX, a pair of test tensors, and a page about
it. The network takes images [B, H, W, C] that the reader has scaled as
`rdf.yaml` says, and gives the map of `seg.predict.export`; finding objects in
it is left to the reader.
"""

import dataclasses
import hashlib
import io
import json
import os
import pathlib
import zipfile
from typing import Any

import numpy as np

from seg import config as config_lib
from seg import normalize
from seg.images import write
from seg.predict import bundle as bundle_lib
from seg.predict import export

_EPS = 1e-6
_NOWHERE = "https://example.org"  # a citation must have an address
_AXES = ["y", "x"]
# How the zoo calls what seg does to intensities.
_SCALING: dict[str, list[dict[str, Any]]] = {
    "percentile": [
        {
            "id": "scale_range",
            "kwargs": {
                "axes": _AXES, "min_percentile": 1.0,
                "max_percentile": 99.8, "eps": _EPS,
            },
        }
    ],
    "minmax": [
        {
            "id": "scale_range",
            "kwargs": {
                "axes": _AXES, "min_percentile": 0.0,
                "max_percentile": 100.0, "eps": _EPS,
            },
        }
    ],
    "standard": [
        {
            "id": "zero_mean_unit_variance",
            "kwargs": {"axes": _AXES, "eps": _EPS},
        }
    ],
    "none": [],
}  # fmt: skip


def package(
    bundle: bundle_lib.Bundle, path: str | os.PathLike[str], name: str
) -> pathlib.Path:
    """Writes the package, a zip.

    name: of the model, for people.

    Raises UserError for a bundle without `licence` (of SPDX) and `author` in
    its meta, where the zoo has no words for what the model does to
    intensities, and where ONNX is refused, see `export.onnx`.
    """
    for what in ("licence", "author"):
        if not bundle.meta.get(what):
            raise config_lib.UserError(
                f"the model does not say its {what}; give --{what}=..."
            )
    scaling = bundle.config.data.normalize.replace(" ", "")
    if scaling not in _SCALING:
        raise config_lib.UserError(
            f"data.normalize={bundle.config.data.normalize} has no place in "
            f"bioimage.io's description; it knows {', '.join(_SCALING)}"
        )
    if bundle.config.data.resize:
        raise config_lib.UserError(
            "the model sees images at one size (data.resize), which "
            "bioimage.io's description has no word for"
        )
    data = dataclasses.replace(bundle.config.data, normalize="none")
    plain = dataclasses.replace(
        bundle, config=dataclasses.replace(bundle.config, data=data)
    )
    network, opset = _network(plain)
    stride = bundle_lib.model(bundle).stride
    given, found = _example(bundle, plain, stride)
    files = {
        "weights.onnx": network,
        "test_input.npy": _npy(given),
        "test_output.npy": _npy(found),
        "README.md": _page(bundle, name).encode(),
    }
    about = _described(bundle, name, stride, found.shape[-1], scaling, files)
    about["weights"] = {
        "onnx": {**_file(files, "weights.onnx"), "opset_version": opset}
    }
    files["rdf.yaml"] = json.dumps(about, indent=1).encode()
    path = pathlib.Path(path)
    with (
        write.whole(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for file, content in files.items():
            archive.writestr(file, content)
    return path


def _network(plain: bundle_lib.Bundle) -> tuple[bytes, int]:
    """The ONNX model without `stats`, which it does not ask for; its opset."""
    content = export.onnx(plain)
    import onnx

    made = onnx.load_from_string(content)
    (unused,) = (i for i, one in enumerate(made.graph.input)
                 if one.name == "stats")  # fmt: skip
    del made.graph.input[unused]
    onnx.checker.check_model(made)
    return made.SerializeToString(), made.opset_import[0].version


def _example(
    bundle: bundle_lib.Bundle, plain: bundle_lib.Bundle, stride: int
) -> tuple[np.ndarray, np.ndarray]:
    """An image as it is stored, and the map of it."""
    side = max(2 * stride, 128 // stride * stride)
    n_channels = bundle.config.model.in_channels
    image = export.drawn((side, side, n_channels)).astype(np.float32)
    stats = normalize.measure(image)
    how = normalize.scaling(bundle.config.data)
    scaled = np.asarray(normalize.apply(image, stats, how), np.float32)[None]
    return image[None], export.run(plain, scaled)


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array.astype(np.float32))
    return file.getvalue()


def _described(
    bundle: bundle_lib.Bundle,
    name: str,
    stride: int,
    n_channels: int,
    scaling: str,
    files: dict[str, bytes],
) -> dict[str, Any]:
    """The content of rdf.yaml."""
    config = bundle.config
    size = {"min": 2 * stride, "step": stride}
    of_image = {"tensor_id": "image"}
    names = [*config.classes[-config.model.n_classes :]]
    if n_channels > len(names):
        names.append("apart")
    colours = [f"channel{i}" for i in range(config.model.in_channels)]

    return {
        "type": "model",
        "format_version": "0.5.3",
        "name": f"seg {name}",  # of five letters at least
        "description": f"{config.model.name} for {', '.join(names)}",
        "documentation": "README.md",
        "authors": [{"name": bundle.meta["author"]}],
        "cite": [{"text": "not published yet", "url": _NOWHERE}],
        "license": bundle.meta["licence"],
        "tags": ["segmentation", "2d", "microscopy", config.model.name],
        "inputs": [
            {
                "id": "image",
                "axes": [
                    {"type": "batch"},
                    {"type": "space", "id": "y", "size": size},
                    {"type": "space", "id": "x", "size": size},
                    {"type": "channel", "channel_names": colours},
                ],
                "test_tensor": _file(files, "test_input.npy"),
                "data": {"type": "float32"},
                "preprocessing": _SCALING[scaling],
            }
        ],
        "outputs": [
            {
                "id": "probabilities",
                "axes": [
                    {"type": "batch"},
                    {
                        "type": "space", "id": "y",
                        "size": {**of_image, "axis_id": "y"},
                    },
                    {
                        "type": "space", "id": "x",
                        "size": {**of_image, "axis_id": "x"},
                    },
                    {"type": "channel", "channel_names": names},
                ],
                "test_tensor": _file(files, "test_output.npy"),
                "data": {"type": "float32"},
            }
        ],
    }  # fmt: skip


def _file(files: dict[str, bytes], name: str) -> dict[str, str]:
    return {"source": name, "sha256": hashlib.sha256(files[name]).hexdigest()}


def _page(bundle: bundle_lib.Bundle, name: str) -> str:
    metrics = bundle.meta.get("metrics", {})
    lines = [f"| {key} | {value:.4g} |" for key, value in metrics.items()]
    scores = "\n".join(["| score | |", "|---|---|", *lines]) if lines else ""
    return (
        f"# {name}\n\nA `{bundle.config.model.name}` trained by seg. Classes: "
        f"{', '.join(bundle.config.classes)}. The map `apart`, where there is "
        "one, is high in the middle of objects and low at their borders: seeds "
        "of a watershed.\n\n## Validation\n\nOf the images that were kept "
        f"aside in training:\n\n{scores}\n"
    )
