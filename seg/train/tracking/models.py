"""Bundles as MLflow models: models-from-code, no pickle, code included."""

import atexit
import contextlib
import importlib.metadata
import json
import math
import os
import pathlib
import shutil
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

from seg import config

NAME = "model"
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
_TAG, _SCORE, _CHAMPION = "seg.record", "seg.score", "champion"
_SEG = pathlib.Path(__file__).parents[2]
_REQUIRED = (
    "absl-py", "flax", "imagecodecs", "jax", "mlflow", "numpy", "optax",
    "pillow", "safetensors", "scikit-image", "scipy", "tifffile", "tqdm",
)  # fmt: skip
_fluent = threading.Lock()  # mlflow's fluent functions share one global URI


def log(client: Any, uri: str, run_id: str, bundle: pathlib.Path) -> None:
    """Logs a bundle as the run's model, unless it is there.

    With `track.register` it becomes a version of the registered model of that
    name as well, see `_register`. The package's own code goes along (an index
    may hold another package of its name), so that the model loads wherever its
    requirements are met.

    The steps of MLflow's `Model.log`, of which each can be done again: what
    breaks off anywhere is completed by the next call.
    """
    from mlflow import models, pyfunc

    from seg.serve import pyfunc as served

    about = json.loads((bundle / "model.json").read_text())
    entity = _entity(client, run_id, about["sha256"])
    if entity.status == "READY":
        _register(client, entity, run_id, about)  # unless it is
        return
    n_channels = about["config"]["model"]["in_channels"]
    with tempfile.TemporaryDirectory() as folder, _using(uri):
        code = pathlib.Path(folder) / _SEG.name
        left = shutil.ignore_patterns("__pycache__", "zoo", "page")
        shutil.copytree(_SEG, code, ignore=left)
        made = pathlib.Path(folder) / NAME
        pyfunc.save_model(
            made,
            mlflow_model=models.Model(
                artifact_path=entity.artifact_location,
                model_uuid=entity.model_id,
                run_id=run_id,
                model_id=entity.model_id,
            ),
            python_model=served.__file__,
            artifacts={"bundle": str(bundle)},
            signature=served.signature(),
            input_example=served.example(n_channels),
            code_paths=[str(code)],
            pip_requirements=_requirements(),
        )
        for cache in made.rglob("__pycache__"):
            shutil.rmtree(cache)  # saving loads the model
        client.log_model_artifacts(entity.model_id, str(made))
    _link(client, entity, run_id)
    client.finalize_logged_model(entity.model_id, "READY")
    _register(client, entity, run_id, about)


def _link(client: Any, entity: Any, run_id: str) -> None:
    """Makes the model an output of its run; its size becomes its metrics.

    MLflow refuses an output that it has: an upload that broke off may have
    told it already.
    """
    from mlflow import entities

    run = client.get_run(run_id)
    known = run.outputs.model_outputs if run.outputs else []
    if any(output.model_id == entity.model_id for output in known):
        return
    sizes = [
        entities.Metric(
            metric.key,
            metric.value,
            metric.timestamp,
            metric.step,
            model_id=entity.model_id,
            run_id=run_id,
        )
        for name in run.data.metrics
        if name.startswith("model/")
        for metric in client.get_metric_history(run_id, name)
        if metric.step == 0 and metric.model_id is None
    ]
    client.log_batch(run_id, metrics=sizes)
    output = entities.LoggedModelOutput(entity.model_id, step=0)
    client.log_outputs(run_id, [output])


def _register(
    client: Any, entity: Any, run_id: str, about: dict[str, Any]
) -> None:
    """Makes a version of a registered model of what is logged.

    Its alias becomes `champion` if it is better, by train.monitor, than the
    one that is; both keep that score as a tag.
    """
    made = config.from_json(json.dumps(about["config"]))
    name, monitor = made.track.register, made.train.monitor
    if not name:
        return
    import mlflow

    with contextlib.suppress(mlflow.MlflowException):  # it is there
        client.create_registered_model(name)
    score = about.get("meta", {}).get("metrics", {}).get(monitor)
    if score is not None and not math.isfinite(score):
        score = None
    known = client.search_model_versions(f"name='{name}'")
    if any(version.model_id == entity.model_id for version in known):
        return
    version = client.create_model_version(
        name,
        f"models:/{entity.model_id}",
        run_id,
        tags={_SCORE: "" if score is None else repr(score)},
        model_id=entity.model_id,
    )
    best = _best(client, name)
    if best is None:
        better = True
    elif score is None or math.isnan(best):
        better = score is not None
    else:
        better = score < best if made.train.lower_is_better else score > best
    if better:
        client.set_registered_model_alias(name, _CHAMPION, version.version)


def _best(client: Any, name: str) -> float | None:
    """The champion's score, NaN if it has none; None without a champion."""
    import mlflow

    try:
        champion = client.get_model_version_by_alias(name, _CHAMPION)
    except mlflow.MlflowException as error:
        if error.error_code not in _ABSENT:
            raise
        return None
    return float(champion.tags.get(_SCORE) or "nan")


def _entity(client: Any, run_id: str, digest: str) -> Any:
    """The run's model of this bundle in MLflow, made if need be.

    One whose upload broke off becomes it, whatever it was begun for.
    """
    experiment = client.get_run(run_id).info.experiment_id
    found = client.search_logged_models(
        [experiment], f"source_run_id='{run_id}'"
    )
    own = [entity for entity in found if _TAG in entity.tags]
    for entity in own:
        if entity.tags[_TAG] == digest:
            return entity
    for entity in own:
        if entity.status != "READY":
            client.set_logged_model_tags(entity.model_id, {_TAG: digest})
            return entity
    return client.create_logged_model(
        experiment, NAME, run_id, tags={_TAG: digest}
    )


def fetch(uri: str, tracking_uri: str) -> pathlib.Path:
    """Downloads the bundle of `runs:/RUN[/PATH]` or `models:/NAME@champion`.

    The folder is removed when the process ends. Raises UserError where there
    is none.
    """
    import mlflow

    if uri.startswith("runs:/") and "/" not in uri.removeprefix("runs:/"):
        uri = f"{uri}/{NAME}"
    folder = tempfile.mkdtemp(prefix="seg-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with _using(tracking_uri):
        try:
            mlflow.artifacts.download_artifacts(
                artifact_uri=uri, dst_path=folder
            )
        except (mlflow.MlflowException, OSError) as error:
            text = " ".join(str(error).split())
            raise config.UserError(
                f"{uri}: cannot be fetched from MLflow ({text}); check the "
                "name and MLFLOW_TRACKING_URI"
            ) from error
    for path in sorted(pathlib.Path(folder).rglob("model.json")):
        return path.parent
    raise config.UserError(
        f"{uri}: holds no bundle (model.json); log one with seg, or give the "
        "path of the model in the run"
    )


@contextlib.contextmanager
def _using(uri: str) -> Iterator[None]:
    import mlflow

    with _fluent:
        before = os.environ.get("MLFLOW_TRACKING_URI")
        mlflow.set_tracking_uri(uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(None)  # takes it from the environment too
            if before is not None:
                os.environ["MLFLOW_TRACKING_URI"] = before


def _requirements() -> list[str]:
    found = {}
    for name in _REQUIRED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return [f"{name}=={version}" for name, version in found.items()]
