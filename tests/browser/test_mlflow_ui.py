"""What seg records, several runs of it, in MLflow's own UI."""

import dataclasses
import pathlib

import numpy as np
import pytest
from PIL import Image

from seg import config
from seg.train import tracking
from tests.browser import mlflow_ui

pytestmark = mlflow_ui.MARKS

WIDTHS = {"narrow": 16, "middle": 32, "wide": 64}
DICE = {"narrow": 0.5, "middle": 0.75, "wide": 0.875}  # exact in three digits


def _record(name: str, uri: str, workdir: pathlib.Path) -> None:
    """A run as a training leaves it."""
    track = config.Track(uri=uri, experiment="compare", run_name=name)
    model = config.Model(width=WIDTHS[name])
    tracker = tracking.build(track, workdir)
    tracker.start(config.Config(model=model, track=track), {})
    for step in range(10, 201, 10):
        values = {"train/loss": WIDTHS[name] ** -0.5 + 10 / step}
        if step % 50 == 0:
            values["val/dice"] = DICE[name] * (1 - 5 / step)
        tracker.metrics(step, values)
    scores = {"test/dice": DICE[name], "test/ap50": DICE[name] - 0.25}
    tracker.metrics(200, scores | {"test/count_error": 1 - DICE[name]})
    tracker.finish("FINISHED")


@dataclasses.dataclass
class Site:
    """The UI over three runs, in a browser."""

    page: object
    server: str
    experiment: str
    runs: list[str]
    requests: list[str]
    pictures: pathlib.Path

    def open(self, page: str, texts: list[str]) -> str:
        """Shows a page, keeps a picture of it, and gives its text."""
        url = mlflow_ui.address(self.server, self.experiment, self.runs, page)
        mlflow_ui.show(self.page, url, texts)
        path = self.pictures / f"{page}.png"
        self.page.screenshot(path=path)
        with Image.open(path) as picture:
            assert len(np.unique(np.asarray(picture.convert("L")))) > 50
        return self.page.inner_text("body")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    import mlflow

    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder}/mlflow.db"
    for name in WIDTHS:
        _record(name, uri, folder / name)
    client = mlflow.MlflowClient(uri)
    experiment = mlflow_ui.tagged(client, "compare")
    runs = [run.info.run_id for run in client.search_runs([experiment])]
    with (
        mlflow_ui.server(uri, folder / "server.log") as server,
        mlflow_ui.browser() as page,
    ):
        requests = []
        page.on("request", lambda request: requests.append(request.url))
        yield Site(page, server, experiment, runs, requests, folder)


def _row(site: Site, run: str) -> list[str]:
    """The cells of a run in the table of the runs, left to right.

    The table is drawn in two halves; the number of the row joins them.
    """
    at = site.page.locator("[role=row]", has_text=run).first.get_attribute(
        "row-index"
    )
    cells = site.page.locator(f"[role=row][row-index='{at}'] [role=gridcell]")
    return [text.strip() for text in cells.all_inner_texts()]


def test_the_table_has_scores_and_knobs_of_every_run(site):
    text = site.open("table", [*WIDTHS, "test/dice", "model.width"])
    assert "3 matching runs" in text
    for name, width in WIDTHS.items():
        cells = _row(site, name)
        assert str(DICE[name]) in cells
        assert str(DICE[name] - 0.25) in cells
        assert str(width) in cells


def test_the_charts_set_the_runs_side_by_side(site):
    names = ["test/dice", "test/ap50", "test/count_error", "val/dice"]
    text = site.open("charts", [*WIDTHS, *names])
    for name in WIDTHS:
        # in the list of the runs, and in the legend of every chart
        assert text.count(name) >= 1 + len(names)
    for value in DICE.values():
        assert f"{value:.2f}" in text  # on the bars
    assert site.page.locator(".js-plotly-plot").count() >= len(names)


def test_the_comparison_lists_runs_scores_and_what_differs(site):
    text = site.open("compare", [*WIDTHS, "test/dice", "model.width"])
    assert "Comparing 3 Runs from 1 Experiment" in text
    for value in (*DICE.values(), *WIDTHS.values()):
        assert str(value) in text
    for run in site.runs:
        assert run in text


def test_no_page_reaches_beyond_this_machine(site):
    site.open("charts", list(WIDTHS))
    outside = [
        url
        for url in site.requests
        if url.startswith("http") and not url.startswith(site.server)
    ]
    assert not outside
    assert site.requests
