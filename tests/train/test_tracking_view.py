import base64
import json
import zlib

from seg import config
from seg.train.tracking import view


def _state():
    tag = json.loads(view.tags()[f"mlflow.sharedViewState.{view.KEY}"])
    kind, packed = tag["state"].split(";")
    assert kind == "deflate"
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def test_every_tag_is_short_enough_for_mlflow():
    assert max(map(len, view.tags().values())) < 5000


def test_every_chart_lies_in_a_section_and_has_an_id_of_its_own():
    state = _state()
    sections = [section["uuid"] for section in state["compareRunSections"]]
    charts = state["compareRunCharts"]
    assert {chart["metricSectionId"] for chart in charts} == set(sections)
    ids = sections + [chart["uuid"] for chart in charts]
    assert len(set(ids)) == len(ids)


def test_columns_of_params_are_knobs():
    knobs = config.to_flat(config.Config())
    params = [
        column.removeprefix("params.").strip("`")
        for column in _state()["selectedColumns"]
        if column.startswith("params.")
    ]
    assert params
    assert set(params) <= set(knobs)
