"""The portable model: a folder with `model.json` and `weights.safetensors`.

`model.json` holds the format's version, the config (and from it, for readers
that are not this package, class names, normalisation and the settings of
prediction), the network's stride, what is known about the model (`meta`:
`data_digest`, `metrics`, ...), the sha256 of each other file and of its own
content. A bundle is written whole or not at all, checked when it is loaded,
and holds no pickle.

Weights are flat: "down/0/conv1/kernel" -> array, the paths of `nnx.state`.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from seg import config as config_lib
from seg import normalize
from seg.predict import tensors

FORMAT = 1
MODEL, WEIGHTS = "model.json", "weights.safetensors"
GRAPH, PROGRAM = "model.onnx", "program.stablehlo"


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A trained network and all that is needed to use it.

    Parameters
    ----------
    config : the experiment's; `model`, `classes`, `predict`, and of `data`
        what scales and resizes images, are what prediction uses.
    weights : name -> float32 array.
    meta : JSON values: data_digest, metrics and whatever else.
    exports : name -> content of what was exported beside the weights.
    stride : sides of a window are multiples of it; None where an older version
        has not noted it.
    """

    config: config_lib.Config
    weights: Mapping[str, np.ndarray]
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    exports: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    stride: int | None = None


def digest(bundle: Bundle) -> str:
    """sha256 of architecture, normalisation and weights: who the model is."""
    seen = hashlib.sha256()
    config = bundle.config
    how = dataclasses.asdict(normalize.scaling(config.data))
    for part in (dataclasses.asdict(config.model), how, config.data.resize):
        seen.update(json.dumps(part).encode())
    seen.update(tensors.dump(bundle.weights))
    return seen.hexdigest()


def from_model(
    config: config_lib.Config, model: Any, meta: Mapping[str, Any] | None = None
) -> Bundle:
    """The bundle of a network: an `nnx.Module`, or an `nnx.State` of one."""
    from flax import nnx

    state = model if isinstance(model, nnx.State) else nnx.state(model)
    weights = {
        "/".join(map(str, path)): np.asarray(value[...], np.float32)
        for path, value in nnx.to_flat_state(state)
        if isinstance(value, nnx.Param | nnx.BatchStat)
    }
    return Bundle(config, weights, dict(meta or {}), {}, _stride(config))


def _stride(config: config_lib.Config) -> int:
    return _abstract(config).stride


def _abstract(config: config_lib.Config) -> Any:
    """The network without numbers: drawing some would cost seconds."""
    from flax import nnx

    from seg import models

    return nnx.eval_shape(lambda: models.build(config.model, nnx.Rngs(0)))


def model(bundle: Bundle) -> Any:
    """The bundle's network, an `nnx.Module`.

    Raises UserError where the weights are not those of `config.model`, listing
    the leaves that differ with their shapes.
    """
    import jax
    from flax import nnx

    network = _abstract(bundle.config)
    state = nnx.state(network, nnx.Any(nnx.Param, nnx.BatchStat))
    flat = {
        "/".join(map(str, path)): value
        for path, value in nnx.to_flat_state(state)
    }
    _check_shapes(
        {name: tuple(value.shape) for name, value in flat.items()},
        {name: array.shape for name, array in bundle.weights.items()},
        bundle.config.model.name,
    )
    for name, value in flat.items():
        value.set_value(jax.numpy.asarray(bundle.weights[name]))
    nnx.update(network, state)
    return network


def _check_shapes(
    wanted: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    name: str,
    n_listed: int = 8,
) -> None:
    differing = [
        f"{leaf} {found.get(leaf, 'missing')} instead of "
        f"{wanted.get(leaf, 'nothing')}"
        for leaf in sorted(wanted.keys() | found.keys())
        if wanted.get(leaf) != found.get(leaf)
    ]
    if differing:
        more = len(differing) - n_listed
        tail = f"; and {more} more" if more > 0 else ""
        raise config_lib.UserError(
            f"the weights do not fit model.name={name}: "
            + "; ".join(differing[:n_listed])
            + tail
        )


def save(
    bundle: Bundle, folder: str | os.PathLike, *, half: bool = False
) -> pathlib.Path:
    """Writes the bundle as a folder, in place of an older bundle there.

    What else lies there, a model card, stays.
    With `half`, arrays of two and more axes are stored as float16, which
    halves the file; those that float16 cannot hold, vectors and statistics
    stay float32. Raises UserError where the folder holds something else.
    """
    weights = {
        name: _halved(array) if half else array
        for name, array in bundle.weights.items()
    }
    with _alone(folder):
        return _write(bundle, {WEIGHTS: tensors.dump(weights)}, folder)


def add_files(
    folder: str | os.PathLike, bundle: Bundle, files: Mapping[str, bytes]
) -> pathlib.Path:
    """Adds files made from a bundle (an export, say) to it in its folder.

    Raises UserError where the folder holds another model by now, as it does
    when a training has found a better one.
    """
    with _alone(folder):
        found = _same(folder, bundle)
        weights = (pathlib.Path(folder) / WEIGHTS).read_bytes()
        contents = {WEIGHTS: weights, **found.exports, **files}
        return _write(found, contents, folder)


def settle(
    folder: str | os.PathLike,
    bundle: Bundle,
    predict: config_lib.Predict,
    meta: Mapping[str, Any],
) -> None:
    """Changes how the bundle in a folder predicts, and adds to its `meta`.

    Raises UserError where the folder holds another model by now.
    """
    config = dataclasses.replace(bundle.config, predict=predict)
    with _alone(folder):
        found = _same(folder, bundle)
        found = dataclasses.replace(
            found, config=config, meta={**found.meta, **meta}
        )
        weights = (pathlib.Path(folder) / WEIGHTS).read_bytes()
        _write(found, {WEIGHTS: weights, **found.exports}, folder)


def _same(folder: str | os.PathLike, bundle: Bundle) -> Bundle:
    """What the folder holds, if it is still this model."""
    found = load(folder)
    if digest(found) != digest(bundle):
        raise config_lib.UserError(
            f"{folder} holds another model than when this began; run it again"
        )
    return found


@contextlib.contextmanager
def _alone(folder: str | os.PathLike) -> Iterator[None]:
    """Waits for other processes that write a bundle beside this one.

    They lock the folder around it itself, so that nothing is left behind.
    """
    parent = pathlib.Path(folder).resolve().parent
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # some file systems have no locks
            parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(parent, os.O_RDONLY)
            held.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def _halved(array: np.ndarray) -> np.ndarray:
    if array.ndim < 2 or np.abs(array).max(initial=0) > np.finfo("f2").max:
        return array
    return array.astype(np.float16)


def _write(
    bundle: Bundle, files: Mapping[str, bytes], folder: str | os.PathLike
) -> pathlib.Path:
    """Writes all files beside the folder, then puts them in its place."""
    folder = pathlib.Path(folder).resolve()
    if folder.exists() and not (folder / MODEL).is_file():
        raise config_lib.UserError(
            f"{folder} exists and is no bundle; choose another folder"
        )
    description = _describe(bundle, files)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = pathlib.Path(
            tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent)
        )
        try:
            fresh = scratch / "new"
            fresh.mkdir()
            for name, content in files.items():
                (fresh / name).write_bytes(content)
            (fresh / MODEL).write_text(description, encoding="utf-8")
            if folder.exists():  # one folder cannot replace another
                _carry_over(folder, fresh)
                os.replace(folder, scratch / "old")
            os.replace(fresh, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise config_lib.UserError(
            f"cannot write the model to {folder}: {error.strerror or error}; "
            "make room there or choose another folder"
        ) from error
    return folder


def _carry_over(folder: pathlib.Path, fresh: pathlib.Path) -> None:
    """Copies what somebody has put beside a bundle, as a model card."""
    for path in folder.iterdir():
        if path.name in (MODEL, WEIGHTS, GRAPH, PROGRAM):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, fresh / path.name, symlinks=True)
        elif not (fresh / path.name).exists():
            shutil.copy2(path, fresh / path.name, follow_symlinks=False)


def _describe(bundle: Bundle, files: Mapping[str, bytes]) -> str:
    """The text of model.json."""
    config = bundle.config
    tree = {
        "format": FORMAT,
        "classes": config.classes,
        "normalize": config.data.normalize,
        "predict": dataclasses.asdict(config.predict),
        "stride": bundle.stride or _stride(config),
        "meta": dict(bundle.meta),
        "config": dataclasses.asdict(config),
        "files": {
            name: hashlib.sha256(content).hexdigest()
            for name, content in sorted(files.items())
        },
    }
    # A metric may be a NumPy scalar.
    tree = json.loads(json.dumps(tree, default=lambda value: value.item()))
    tree["sha256"] = _seal(tree)
    return json.dumps(tree, indent=2) + "\n"


def _seal(tree: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in tree.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def load(folder: str | os.PathLike) -> Bundle:
    """Reads a bundle and checks every byte of it.

    Raises UserError naming what is missing, damaged, or of a newer format.
    """
    try:
        return _load(pathlib.Path(folder))
    except OSError as error:
        raise _refused(pathlib.Path(folder), str(error)) from error


def _load(folder: pathlib.Path) -> Bundle:
    tree = _read(folder)
    contents = {}
    for name, sha256 in tree["files"].items():
        if pathlib.PurePath(name).name != name or not (folder / name).is_file():
            if name in (GRAPH, PROGRAM):  # made again when it is wanted
                continue
            raise _refused(folder, f"{name} is missing")
        content = (folder / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise _refused(folder, f"{name} is damaged: its sha256 differs")
        contents[name] = content
    weights = tensors.load(contents.pop(WEIGHTS))
    config = config_lib.from_json(json.dumps(tree["config"]))
    weights = {
        name: np.asarray(array, np.float32) for name, array in weights.items()
    }
    return Bundle(config, weights, tree["meta"], contents, tree.get("stride"))


def _read(folder: pathlib.Path) -> dict[str, Any]:
    """The checked content of model.json."""
    path = folder / MODEL
    if not path.is_file():
        raise config_lib.UserError(f"{folder} is no bundle: it has no {MODEL}")
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        version, seal = tree["format"], tree["sha256"]
    except (ValueError, TypeError, KeyError) as error:
        raise _refused(folder, f"{MODEL} is damaged ({error})") from error
    if version != FORMAT:
        raise config_lib.UserError(
            f"{folder} has bundle format {version}, this version of seg reads "
            f"{FORMAT}; update seg"
        )
    if seal != _seal(tree) or WEIGHTS not in tree["files"]:
        raise _refused(folder, f"{MODEL} is damaged: its sha256 differs")
    return tree


def _refused(folder: pathlib.Path, why: str) -> config_lib.UserError:
    return config_lib.UserError(
        f"model {folder} refused: {why}; copy or export it again"
    )
