"""Encoder weights from a local file of Keras; nothing is ever downloaded.

Read are Keras' legacy `.h5`, as keras.applications publishes them (weights
alone, or a whole model), and Keras 3's `.weights.h5`. Layers are found by
their names, or, where an old file has none of them, by their order, as Keras
itself does. A network whose encoder has one channel takes weights for three:
the first kernel is summed over its channels, which equals grey copied to all
three. The weights expect images in [-1, 1]: with `model.encoder` set a network
maps [0, 1] to that itself, in training and in prediction, which needs the file
no more.
"""

import hashlib
import os
import pathlib
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from seg import config as config_lib

_NUMBERED = ("conv2d", "batch_normalization")  # named so by Keras itself
_SHOWN = 4  # layers that a message names


def load(model: nnx.Module, path: str | os.PathLike) -> str:
    """Puts the file's weights into `model.encoder`; its SHA-256, hexadecimal.

    The model may be an abstract one (`nnx.eval_shape`): its encoder then has
    values. Raises ConfigError where the network has no such encoder, UserError
    where the file is missing, unreadable, or has other layers.
    """
    encoder = getattr(model, "encoder", None)
    if not hasattr(encoder, "keras_layers"):
        raise config_lib.ConfigError(
            f"model.encoder={path}: this network has no encoder that weights "
            "fit; choose xception_unet, mobilenet_unet or deeplab_v3plus"
        )
    path = pathlib.Path(path)
    if not path.is_file():
        raise config_lib.UserError(
            f"model.encoder={path} is no file; seg downloads nothing: get "
            f"{encoder.url} yourself, or leave the knob out"
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    wanted = encoder.keras_layers()
    found = _numbered(read(path))
    if not wanted.keys() & found.keys():
        found = _in_order(wanted, found)
    _check(path, encoder, wanted, found)
    for name, variables in wanted.items():
        for variable, array in zip(variables, found[name], strict=True):
            fitted = _fit(array, variable.shape)
            variable.set_value(jnp.asarray(fitted, jnp.float32))
    return digest


def read(path: str | os.PathLike) -> dict[str, list[np.ndarray]]:
    """The weights of each layer that has any, in Keras' order.

    Raises UserError where the file is not one of Keras' weights.
    """
    try:
        import h5py
    except ImportError as error:
        raise config_lib.UserError(
            "h5py is missing, which reads encoder weights; pip install h5py"
        ) from error
    try:
        with h5py.File(path) as file:
            root = file.get("model_weights", file)
            if "layer_names" in root.attrs:
                layers = _read_legacy(root)
            else:
                layers = _read_keras3(root["layers"])
    except (OSError, KeyError) as error:
        raise config_lib.UserError(
            f"{path} holds no weights of a Keras model that can be read "
            f"({error}); fetch it again, or save it with save_weights of a "
            "newer Keras, whose files name the layers"
        ) from error
    return {name: weights for name, weights in layers.items() if weights}


def _read_legacy(root: Any) -> dict[str, list[np.ndarray]]:
    return {
        _text(layer): [
            root[_text(layer)][_text(weight)][()]
            for weight in root[_text(layer)].attrs["weight_names"]
        ]
        for layer in root.attrs["layer_names"]
    }


def _read_keras3(root: Any) -> dict[str, list[np.ndarray]]:
    """Groups are numbered by class there; the name is an attribute."""
    layers = {}
    for group in root.values():
        values = group.get("vars", {})
        if len(values):
            weights = [values[str(i)][()] for i in range(len(values))]
            layers[_text(values.attrs["name"])] = weights
    return layers


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _numbered(
    layers: dict[str, list[np.ndarray]],
) -> dict[str, list[np.ndarray]]:
    """Layers that Keras numbers, which it does on and on, from nothing on."""
    names = {name: name for name in layers}
    for kind in _NUMBERED:
        pattern = re.compile(rf"{kind}_?(\d*)")
        matches = filter(None, map(pattern.fullmatch, layers))
        ordered = sorted(matches, key=lambda match: int(match[1] or 0))
        for i, match in enumerate(ordered):
            names[match[0]] = f"{kind}_{i}" if i else kind
    return {names[name]: weights for name, weights in layers.items()}


def _in_order(
    wanted: dict[str, list[nnx.Variable]], found: dict[str, list[np.ndarray]]
) -> dict[str, list[np.ndarray]]:
    """The layers by the names wanted, if all shapes fit in the file's order.

    What follows the encoder's last layer is of the classifier.
    """
    pairs = list(zip(wanted.items(), found.values(), strict=False))
    fits = len(pairs) == len(wanted) and all(
        _fits(variables, arrays) for (_, variables), arrays in pairs
    )
    return {name: arrays for (name, _), arrays in pairs} if fits else found


def _fits(variables: list[nnx.Variable], arrays: list[np.ndarray]) -> bool:
    return len(arrays) == len(variables) and all(
        _fit(array, variable.shape) is not None
        for array, variable in zip(arrays, variables, strict=True)
    )


def _fit(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """The array in the shape asked for, or None."""
    if array.shape == (*shape, 1):  # depthwise
        return array[..., 0]
    if len(shape) == 4 and shape[2] == 1 and array.shape[2:3] == (3,):
        array = array.sum(2, keepdims=True)  # grey, seen as three equal colours
    return array if array.shape == shape else None


def _check(
    path: pathlib.Path,
    encoder: nnx.Module,
    wanted: dict[str, list[nnx.Variable]],
    found: dict[str, list[np.ndarray]],
) -> None:
    missing = [name for name in wanted if name not in found]
    extra = [
        name
        for name in found
        if name not in wanted and not re.fullmatch(encoder.unused, name)
    ]
    wrong = []
    for name, variables in wanted.items():
        shapes = [tuple(variable.shape) for variable in variables]
        arrays = found.get(name, [])
        if name in found and not _fits(variables, arrays):
            has = [array.shape for array in arrays]
            wrong.append(f"{name} ({has} for {shapes})")
    problems = [
        f"{what} {', '.join(names[:_SHOWN])}"
        + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        for what, names in (
            ("it lacks", missing),
            ("it has besides", extra),
            ("shapes differ in", wrong),
        )
        if names
    ]
    if problems:
        raise config_lib.UserError(
            f"{path} does not fit the encoder {type(encoder).__name__}: "
            f"{'; '.join(problems)}; Keras' own file is {encoder.url}"
        )
