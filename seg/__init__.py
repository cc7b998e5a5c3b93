"""seg: segmentation of microscopy images.

    import seg
    predictor = seg.load("nuclei")        # a name in the zoo, a run, a bundle
                                          # or an MLflow URI
    found = predictor("cells.tif")        # a path or an array
    found.labels, found.classes, found.table

The rooms follow an image; imports go down this list's floors, never up:

    floor 1   config      every knob, as frozen dataclasses
              tiles       windows over an image and their weights
              normalize   intensities, measured once, scaled everywhere
              images      files -> pixels, results -> files
    floor 2   data        labelled images -> batches
              models      image -> logits
    floor 3   predict     image -> objects; the bundle, the engine, stitching
    floor 4   evaluate    objects and truth -> numbers and pictures
              serve       prediction in the browser, and behind MLflow
    floor 5   train       batches -> a trained model
    floor 6   commands    those of `seg`; flags; launch/ beside the package
              napari      its plugin

Importing `seg` imports nothing else: what a call needs is loaded by the call.
"""

import pathlib
import typing

if typing.TYPE_CHECKING:
    from seg.predict.predictor import Predictor

__version__ = "0.1.0"

ZOO = pathlib.Path(__file__).parent / "zoo"


def load(
    name: str | pathlib.Path = "nuclei",
    *,
    engine: str = "auto",
    **settings: typing.Any,
) -> "Predictor":
    """The predictor of a model.

    Parameters
    ----------
    name : what `find_all` takes; several models are one, their mean.
        Without one, the model of nuclei that comes along.
    engine : what runs the network: auto, jax, onnx or openvino. The graph that
        the last two need is made once and kept in ~/.cache/seg.
    settings : fields of `config.Predict` to change, as `tta=8`.

    Raises
    ------
    config.UserError
        where there is no such model, it is damaged, or a setting is wrong,
        and where models of several do not fit together.

    Examples
    --------
    >>> import numpy as np
    >>> import seg
    >>> from seg import config
    >>> from seg.data import synthetic
    >>> drawn = config.Synthetic(height=128, width=128, n_objects=8)
    >>> image = synthetic.draw(drawn, 0)["image"]

    >>> model = seg.load("nuclei", min_area=[20])
    >>> result = model(image)
    >>> result.labels.shape, result.labels.dtype, model.classes
    ((128, 128), dtype('int32'), ('background', 'nucleus'))
    >>> len(result.table) == len(np.unique(result.labels)) - 1
    True
    """
    from seg import config
    from seg.predict import bundle, predictor

    found, *others = map(bundle.load, find_all(name))
    changes = {f"predict.{field}": value for field, value in settings.items()}
    predict = config.replace(found.config, changes).predict
    return predictor.Predictor(
        found, others=others, predict=predict, engine=engine
    )


def find_all(name: str | pathlib.Path) -> list[pathlib.Path]:
    """The folders of the bundles of one model, or of several.

    Parameters
    ----------
    name : what `find` takes; several with commas between; or a folder of
        bundles, as the `snapshots` of a workdir, or of a sweep, whose
        trials it stands for, as those over `data.fold`.
    """
    folder = pathlib.Path(name).expanduser()
    if "," in str(name) and not folder.exists():
        parts = str(name).split(",")
        return [path for part in parts for path in find_all(part.strip())]
    own = folder / "model.json", folder / "bundle" / "model.json"
    if not any(path.is_file() for path in own):
        trials = (folder / "sweep.json").is_file()
        inside = "*/bundle/model.json" if trials else "*/model.json"
        if found := [path.parent for path in folder.glob(inside)]:
            return sorted(found)
    return [find(name)]


def find(name: str | pathlib.Path) -> pathlib.Path:
    """The folder of a bundle.

    Parameters
    ----------
    name : a bundle's folder, a workdir of training, a name in the zoo, or an
        MLflow URI (`runs:/...`, `models:/...`).
    """
    from seg import config

    if str(name).startswith(("runs:/", "models:/")):
        from seg.train import tracking

        return pathlib.Path(tracking.fetch_bundle(str(name)))
    folder = pathlib.Path(name).expanduser()
    for candidate in (folder, folder / "bundle", ZOO / folder):
        if (candidate / "model.json").is_file():
            return candidate
    if (folder / "checkpoints").is_dir():
        raise config.UserError(
            f"{name} has checkpoints but no model yet; the training command, "
            "run again, goes on and writes it"
        )
    if folder.is_dir():
        raise config.UserError(
            f"{name} is no model: neither model.json nor bundle/ is in it"
        )
    names = sorted(path.parent.name for path in ZOO.glob("*/model.json"))
    near = config.nearest(str(name), names)
    meant = f"; did you mean {near[0]}?" if near else ""
    meant = meant or "; give a bundle, a workdir or an MLflow URI"
    come = f"not of those that come along ({', '.join(names) or 'none'})"
    raise config.UserError(
        f"no model {str(name)!r}: no such folder, and {come}{meant}"
    )
