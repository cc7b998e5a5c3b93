"""Validation: whole images, stitched, as they will be predicted."""

import logging
import time
from collections.abc import Callable, Mapping

import jax
import numpy as np

from seg import config as config_lib
from seg.data import records, targets
from seg.evaluate import report
from seg.predict import bundle, predictor
from seg.train import losses, step

_SILENT_S = 30.0  # at most, in a validation
_log = logging.getLogger(__name__)


def on_images(
    config: config_lib.Config, data: records.Records
) -> Callable[..., Mapping[str, float]] | None:
    """The validation of a training, for `loop.Job.evaluate`.

    From (state, check) to the metrics of `report` and `val/loss`; None where
    there are no images for it. Raises ConfigError for a `train.monitor` that
    is not among them.
    """
    n = data.n("val")
    if not n:
        return None
    n_scored = min(config.train.eval_images or n, n)
    scored = np.linspace(0, n - 1, n_scored).round().astype(int).tolist()
    val = (data.read("val", i) for i in scored)
    with_objects = (r for r in val if r["labels"] is not None)
    first = next(with_objects, None) or data.read("val", scored[0])
    check_monitor(config, first)

    # images as large as those of the training: nothing to look for
    own_size = {"rescale": False, "diameter": None, "pixel_size": None}
    as_is = config_lib.replace(
        config, {f"predict.{name}": value for name, value in own_size.items()}
    )

    def evaluate(
        state: step.State, check: Callable[[], None]
    ) -> Mapping[str, float]:
        made = bundle.from_model(as_is, step.weights(state))
        # Processes see the same images, but memory decides how many batches.
        alone = jax.process_count() == 1
        predict = predictor.Predictor(
            made, engine="jax", on_batch=check if alone else lambda: None
        )
        seen, seconds, n_pixels = [], [], []
        told = time.monotonic()

        def score(record: records.Record) -> predictor.Segmentation:
            nonlocal told
            if not alone:
                check()
            began = time.monotonic()
            if began - told > _SILENT_S:
                _log.info("validated %d of %d images", len(seen), n_scored)
                told = began
            found = predict(
                record["image"],
                name=record["id"],
                stats=record["stats"],
                probabilities=True,
            )
            seconds.append(time.monotonic() - began)
            n_pixels.append(record["classes"].size)
            seen.append(_loss(config, found.probabilities, record))
            return found

        found = report.evaluate(
            score,
            (data.read("val", i) for i in scored),
            config.classes,
            "val",
            intervals=False,
        )
        return found.metrics | {
            "val/loss": float(np.mean(seen)),
            "perf/predict_mpx_per_second": _speed(n_pixels, seconds),
        }

    return evaluate


def _speed(n_pixels: list[int], seconds: list[float]) -> float:
    """Megapixels a second, without the images that waited for a compiler.

    Those are more than three times as slow as the median.
    """
    speeds = np.array(n_pixels) / seconds
    usual = speeds > np.median(speeds) / 3
    total = np.sum(n_pixels, where=usual) / np.sum(seconds, where=usual)
    return float(total) / 1e6


def check_monitor(
    config: config_lib.Config, record: records.Record | None = None
) -> None:
    """Raises ConfigError for a monitor that no validation will give.

    Of records like this one; None: of any.
    """
    record = record or {
        "id": "", "group": "", "classes": np.zeros((8, 8), np.uint8),
        "labels": np.zeros((8, 8), np.int32),
    }  # fmt: skip
    shape = record["classes"].shape
    nothing = predictor.Segmentation(
        np.zeros(shape, np.uint8), np.zeros(shape, np.int32), predictor.Table()
    )
    found = report.evaluate(
        lambda _: nothing, [record], config.classes, "val", intervals=False
    )
    names = [*found.metrics, "val/loss"]
    if config.train.monitor not in names:
        raise config_lib.ConfigError(
            config_lib.unknown("train.monitor", config.train.monitor, names)
        )


def _loss(
    config: config_lib.Config, prob: np.ndarray, record: records.Record
) -> float:
    """The training's loss of a stitched map [H, W, K].

    Of its last phase, whatever the step: so the values of a run compare.
    """
    prob = np.clip(prob, 1e-7, 1 - 1e-7)
    logits = np.log(prob)
    if prob.shape[-1] == 1:
        logits -= np.log1p(-prob)
    classes = targets.classes_with_gap(
        record["classes"], record["labels"], config.data.gap
    )
    one = np.ones(1, np.float32)
    outputs = {"classes": logits[None]}
    return float(losses.total(outputs, classes[None], one, config.loss, 1.0))
