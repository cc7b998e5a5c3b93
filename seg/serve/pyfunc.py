"""A bundle as an MLflow model: the file that MLflow runs to load one.

Input: images float32 [B, H, W, C], all of one size, intensities as they stand
in their files. Output: labels int32 [B, H, W], 0 background, one id an object.
The parameter `dtype` says what the files hold (uint8, uint16 or float32); only
models whose data.normalize has range or invert need to know.
"""

from typing import Any

import mlflow
import numpy as np
from mlflow import types
from mlflow.pyfunc import PythonModel

from seg import config

_DTYPES = ("float32", "uint8", "uint16")


class Segmenter(PythonModel):
    """Loads the bundle among the model's artifacts and segments images."""

    def load_context(self, context: Any) -> None:
        """Reads the bundle, which checks its sha256."""
        from seg.predict import bundle, predictor

        # not seg.load, which keeps a graph there: the folder is MLflow's
        found = bundle.load(context.artifacts["bundle"])
        self._predictor = predictor.Predictor(found)

    def predict(
        self,
        context: Any,
        model_input: np.ndarray,
        params: dict[str, Any] | None = None,
    ) -> np.ndarray:
        """Labels int32 [B, H, W] of images [B, H, W, C]."""
        dtype = (params or {}).get("dtype", _DTYPES[0])
        if dtype not in _DTYPES:
            raise config.UserError(config.unknown("dtype", dtype, _DTYPES))
        images = np.asarray(model_input).astype(dtype)
        labels = [self._predictor(image).labels for image in images]
        return np.stack(labels).astype(np.int32)


def signature(n_channels: int) -> mlflow.models.ModelSignature:
    """The tensors that go in and come out, and the parameter."""
    image = types.TensorSpec(np.dtype("float32"), (-1, -1, -1, n_channels))
    labels = types.TensorSpec(np.dtype("int32"), (-1, -1, -1))
    dtype = types.ParamSpec("dtype", types.DataType.string, _DTYPES[0])
    return mlflow.models.ModelSignature(
        types.Schema([image]),
        types.Schema([labels]),
        types.ParamSchema([dtype]),
    )


mlflow.models.set_model(Segmenter())
