"""A sweep in MLflow's own UI: one parent, its trials nested, scores beside."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from launch.sweep import plan, report, results, share, work
from seg import config
from seg.train import tracking
from tests.browser import mlflow_ui

pytestmark = mlflow_ui.MARKS

SWEEP = {"model.width": [16, 32], "optim.learning_rate": [0.001, 0.003]}
DICE = [0.5, 0.625, 0.75, 0.875]  # exact in three digits


def _record(job: work.Job, dice: float) -> None:
    """The run of a trial, as a training leaves it."""
    tracker = tracking.build(job.config.track, job.folder)
    tracker.start(job.config, {})
    for step in range(10, 101, 10):
        tracker.metrics(step, {"train/loss": 10 / step})
        if step % 50 == 0:
            tracker.metrics(step, {"val/dice": dice * step / 100})
    tracker.metrics(100, {"test/dice": dice - 0.25})
    tracker.finish("FINISHED")


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """(uri, experiment id, ids of the runs by name, folder)."""
    import mlflow

    folder = tmp_path_factory.mktemp("sweep")
    uri = f"sqlite:///{folder}/mlflow.db"
    base = config.replace(
        config.Config(), {"track.uri": uri, "track.experiment": "sweeps"}
    )
    sweep = share.Sweep(plan.make(base, SWEEP), folder / "widths")
    sweep.open({"experiment": "e.py", "sweep": SWEEP})
    parent = report.Parent(sweep, {"sweep": ", ".join(SWEEP)})
    parent.begin()
    sweep.parent = parent.run
    found = []
    for trial, dice in zip(sweep.trials(), DICE, strict=True):
        _record(sweep.job(trial), dice)
        metrics = {"val/dice": dice, "test/dice": dice - 0.25}
        found.append(results.Result(trial, "done", metrics, dice, 1234, 1.0))
    parent.end(found, [folder / "widths/sweep.json"], "FINISHED")
    client = mlflow.MlflowClient(uri)
    experiment = mlflow_ui.tagged(client, "sweeps")
    runs = {
        run.info.run_name: run.info.run_id
        for run in client.search_runs([experiment])
    }
    return uri, experiment, runs, folder


@pytest.fixture(scope="module")
def page(swept):
    uri, _, _, folder = swept
    with (
        mlflow_ui.server(uri, folder / "server.log") as server,
        mlflow_ui.browser() as page,
    ):
        yield server, page


def _picture(page, path: pathlib.Path) -> None:
    page.screenshot(path=path)
    with Image.open(path) as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 50


def _rows(page) -> list[str]:
    """The texts of the rows of runs, each from both halves of the table."""
    found: dict[str, str] = {}
    for row in page.locator("[role=row][row-index]").all():
        at = row.get_attribute("row-index")
        if row.get_attribute("row-id"):
            found[at] = found.get(at, "") + "\n" + row.inner_text()
    return list(found.values())


def test_the_table_nests_the_trials_under_one_parent(swept, page):
    _, experiment, runs, folder = swept
    server, tab = page
    url = mlflow_ui.address(server, experiment, [], "table")
    mlflow_ui.show(tab, url, ["widths", "test/dice", "model.width"])
    trials = sorted(set(runs) - {"widths"})
    assert len(trials) == 4
    text = tab.inner_text("body")
    expander = tab.locator("[role=row]", has_text="widths").get_by_role(
        "button"
    )
    if trials[0] not in text:  # children are folded away at first
        expander.first.click()
    for name in trials:
        tab.get_by_text(name, exact=True).first.wait_for()
    _picture(tab, folder / "sweep_table.png")
    rows = _rows(tab)
    assert sum("widths" in row for row in rows) == 1
    for name, dice in zip(plan_names(), DICE, strict=True):
        (row,) = [row for row in rows if name in row]
        cells = [cell.strip() for cell in row.split("\n")]
        assert str(dice) in cells and str(dice - 0.25) in cells
        assert name.split(",")[0].removeprefix("width=") in cells


def plan_names() -> list[str]:
    """The names of the trials, in their order."""
    return [t.name for t in plan.make(config.Config(), SWEEP).trials]


def test_the_page_of_the_parent_names_the_best_and_lists_the_children(
    swept, page
):
    _, experiment, runs, folder = swept
    server, tab = page
    url = f"{server}/#/experiments/{experiment}/runs/{runs['widths']}"
    best = "width=32,learning_rate=0.003"
    mlflow_ui.show(tab, url, ["widths", "sweep.best", best])
    _picture(tab, folder / "sweep_parent.png")
    text = tab.inner_text("body")
    assert "0.875" in text and "sweep.done" in text


def test_the_comparison_tells_what_differs(swept, page):
    _, experiment, runs, folder = swept
    server, tab = page
    trials = [run for name, run in runs.items() if name != "widths"]
    url = mlflow_ui.address(server, experiment, trials, "compare")
    mlflow_ui.show(tab, url, ["test/dice", "model.width"])
    _picture(tab, folder / "sweep_compare.png")
    text = tab.inner_text("body")
    assert "Comparing 4 Runs from 1 Experiment" in text
    for value in (*DICE, *SWEEP["optim.learning_rate"]):
        assert str(value) in text
