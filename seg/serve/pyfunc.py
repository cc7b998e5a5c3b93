"""A bundle as an MLflow model: the file that MLflow runs to load one.

Input: a table with a column `image`, each cell the bytes of an image file (PNG,
TIFF, ...; base64 where they come as JSON). Output: a table with a row an image:
`labels`, a 16-bit PNG of the object ids as base64 text (TIFF for more than
65,535 objects), `n_objects`, and `objects`, the table of the objects as JSON.

    curl localhost:5001/invocations -H "Content-Type: application/json" -d \\
        '{"dataframe_split": {"columns": ["image"], "data": [["iVBOR..."]]}}'
"""

import base64
import binascii
import io
import json
from collections.abc import Mapping
from typing import Any

import mlflow
import numpy as np
import pandas
import tifffile
from mlflow import types
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel
from PIL import Image

from seg import config

_MOST = np.iinfo(np.uint16).max
_COLUMN = "image"


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
        model_input: pandas.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pandas.DataFrame:
        """The table of what was found in a table of images.

        Raises MlflowException for what cannot be used: of any other error
        MLflow's server tells its client a sentence of its own and a trace.
        """
        try:
            rows = [
                self._row(cell, i) for i, cell in enumerate(_cells(model_input))
            ]
        except config.UserError as error:
            raise mlflow.MlflowException(
                str(error), error_code=INVALID_PARAMETER_VALUE
            ) from error
        return pandas.DataFrame(
            rows, columns=["labels", "n_objects", "objects"]
        )

    def _row(self, cell: Any, i: int) -> Mapping[str, Any]:
        try:
            found = self._predictor(_content(cell), name=f"row {i}")
        except config.UserError as error:
            raise config.UserError(f"row {i}: {error}") from error
        table = [
            {k: v for k, v in row.items() if k != "image" and v == v}  # no NaN
            for row in found.table
        ]
        return {
            "labels": _encoded(found.labels),
            "n_objects": len(table),
            "objects": json.dumps(table),
        }


def _cells(table: Any) -> list[Any]:
    """The cells of the images. Raises UserError."""
    try:
        return list(table[_COLUMN])
    except (KeyError, TypeError, IndexError) as error:
        raise config.UserError(
            f"no column {_COLUMN!r}; give a table with one, the bytes of "
            "an image file in each row"
        ) from error


def _content(cell: Any) -> bytes:
    """The file in a cell. Raises UserError."""
    if isinstance(cell, bytes | bytearray | memoryview):
        return bytes(cell)
    try:
        return base64.b64decode(str(cell).rpartition(",")[2], validate=True)
    except (binascii.Error, ValueError) as error:
        raise config.UserError(
            f"neither bytes nor base64 ({error}); encode the file"
        ) from error


def _encoded(labels: np.ndarray) -> str:
    file = io.BytesIO()
    if labels.max(initial=0) > _MOST:
        tifffile.imwrite(file, labels.astype(np.uint32), compression="zlib")
    else:
        Image.fromarray(labels.astype(np.uint16)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def signature() -> mlflow.models.ModelSignature:
    """The columns that go in and come out."""
    kind, column = types.DataType, types.ColSpec
    return mlflow.models.ModelSignature(
        types.Schema([column(kind.binary, _COLUMN)]),
        types.Schema(
            [
                column(kind.string, "labels"),
                column(kind.long, "n_objects"),
                column(kind.string, "objects"),
            ]
        ),
    )


def example(n_channels: int) -> pandas.DataFrame:
    """A table of one small image, which shows how to ask."""
    row, col = np.mgrid[:64, :64]
    disc = np.hypot(row - 32, col - 32) < 12
    pixels = np.where(disc, 200, 20).astype(np.uint8)
    if n_channels == 3:
        pixels = np.repeat(pixels[..., None], 3, -1)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return pandas.DataFrame({_COLUMN: [file.getvalue()]})


mlflow.models.set_model(Segmenter())
