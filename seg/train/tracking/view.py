"""How MLflow's UI shows an experiment of seg at first: a saved view.

MLflow 3.17 keeps a saved view in a tag of the experiment: JSON with the state
of the page, deflated. This one puts the scores and the knobs that matter into
the table of the runs, and nine charts (bars of the test scores, lines of the
validation and the training) before those of a hundred other metrics. An older
MLflow ignores the tags. The view is opened by

    <server>/#/experiments/<id>/runs?viewStateShareKey=seg&compareRunsMode=CHART
"""

import base64
import json
import zlib
from typing import Any

KEY = "seg"

_COLUMNS = (
    *(
        f"metrics.`test/{name}`"
        for name in ("dice", "iou", "ap50", "ap_mean", "count_error")
    ),
    "metrics.`val/dice`",
    *(
        f"params.`{name}`"
        for name in (
            "model.name", "model.width", "loss.terms", "optim.learning_rate",
        )
    ),
)  # fmt: skip
_SECTIONS = (
    ("Test", "BAR", ("test/dice", "test/ap50", "test/count_error")),
    ("Validation", "LINE", ("val/dice", "val/ap50", "val/count_error")),
    ("Training", "LINE", ("train/loss", "train/learning_rate",
                          "perf/tiles_per_second")),
)  # fmt: skip


def tags() -> dict[str, str]:
    """Tags for a new experiment."""
    text = json.dumps(_state(), separators=(",", ":"))
    packed = base64.b64encode(zlib.compress(text.encode(), 9)).decode()
    view = {"name": KEY, "createdAt": 0, "updatedAt": 0}
    view["state"] = f"deflate;{packed}"
    return {
        f"mlflow.sharedViewState.{KEY}": json.dumps(view),
        # the pages for models, not those for language models
        "mlflow.experimentKind": "custom_model_development",
    }


def _state() -> dict[str, Any]:
    sections, charts = [], []
    for title, kind, metrics in _SECTIONS:
        section = {"uuid": f"seg-{title}", "name": title}
        sections.append(
            section | {"display": True, "isReordered": True, "deleted": False}
        )
        charts += [
            _chart(metric, kind) | {"metricSectionId": section["uuid"]}
            for metric in metrics
        ]
    return {
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "searchFilter": "",
        "selectedColumns": list(_COLUMNS),
        "runsHiddenMode": "FIRST_10_RUNS",
        "hideEmptyCharts": True,
        "isAccordionReordered": True,
        "compareRunSections": sections,
        "compareRunCharts": charts,
        "globalLineChartConfig": {
            "xAxisKey": "step",
            "lineSmoothness": 0,
            "selectedXAxisMetricKey": "",
        },
    }


def _chart(metric: str, kind: str) -> dict[str, Any]:
    chart = {
        "uuid": f"seg-{metric}",
        "type": kind,
        "runsCountToCompare": 10,
        "deleted": False,
        "isGenerated": False,
        "metricKey": metric,
        "displayName": metric,
    }
    if kind == "LINE":
        chart |= {
            "selectedMetricKeys": [metric],
            "lineSmoothness": 0,
            "scaleType": "linear",
            "xAxisKey": "step",
            "xAxisScaleType": "linear",
            "selectedXAxisMetricKey": "",
            "yAxisKey": "metric",
            "yAxisExpressions": [],
            "range": {},
            "ignoreOutliers": False,
            "useGlobalXaxisKey": True,
            "useGlobalLineSmoothing": True,
        }
    return chart
