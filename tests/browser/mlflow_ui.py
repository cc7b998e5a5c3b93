"""MLflow's UI in a real browser: serve a database, open a page, take a picture.

    python -m tests.browser.mlflow_ui --database=mlflow.db \\
        --experiment=seg --page=charts --out=runs.png [--runs=NAME,NAME]

writes a picture of the runs side by side. Pages: `table` (scores and knobs),
`charts` (bars and curves) and `compare` (MLflow's comparison of the runs).
"""

import argparse
import contextlib
import importlib.util
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from seg.train.tracking import view

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PAGES = ("table", "charts", "compare")
# Of every test that opens a page.
MARKS = [
    pytest.mark.browser,
    # a server and a browser start, perhaps on a busy machine
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        CHROMIUM is None,
        reason="no chromium; apt-get install chromium",
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("playwright") is None,
        reason="no playwright; pip install playwright",
    ),
    # of MLflow about its own libraries
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# MLflow opens a chat beside the page on the first visit of all.
_NO_CHAT = (
    "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1',"
    "'true');"
    "localStorage.setItem('mlflow.settings.telemetry.enabled_v1','false');"
)
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # six processes less
}


@contextlib.contextmanager
def server(
    uri: str, log: pathlib.Path, patience_s: float = 400
) -> Iterator[str]:
    """Serves a database on loopback; yields the address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri,
        "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env=os.environ | _QUIET,
            start_new_session=True,  # its workers end with it
        )
    try:
        _wait(process, address, log, time.monotonic() + patience_s)
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()


def _wait(
    process: subprocess.Popen, address: str, log: pathlib.Path, until: float
) -> None:
    local = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        with (
            contextlib.suppress(urllib.error.URLError, OSError),
            local.open(f"{address}/health", timeout=5),
        ):
            return
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"MLflow does not answer:\n{log.read_text()}")
        time.sleep(0.3)


@contextlib.contextmanager
def browser(width: int = 1600, height: int = 1000) -> Iterator[Any]:
    """Yields a page of a headless Chromium."""
    from playwright import sync_api

    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=list(_ARGUMENTS), headless=True
        )
        page = chromium.new_page(viewport={"width": width, "height": height})
        page.add_init_script(_NO_CHAT)
        page.set_default_timeout(240_000)
        yield page
        chromium.close()


def address(server: str, experiment: str, runs: list[str], page: str) -> str:
    """Where MLflow 3.17 shows runs (ids) of an experiment (id)."""
    if page == "compare":
        query = urllib.parse.urlencode(
            {
                "runs": json.dumps(runs),
                "experiments": json.dumps([experiment]),
                "workflowType": "machine_learning",
            }
        )
        return f"{server}/#/compare-runs?{query}"
    query = {"viewStateShareKey": view.KEY, "workflowType": "machine_learning"}
    if page == "charts":
        query["compareRunsMode"] = "CHART"
    return (
        f"{server}/#/experiments/{experiment}/runs?"
        + urllib.parse.urlencode(query)
    )


def show(page: Any, url: str, texts: list[str]) -> None:
    """Opens a page of MLflow and waits until it shows these texts."""
    page.goto("about:blank")  # else only what follows the # changes
    page.goto(url)
    for text in texts:
        page.get_by_text(text, exact=True).first.wait_for()
    note = page.get_by_text("You're viewing a shared view.")
    if note.count():
        note.locator("xpath=ancestor::*[.//button][1]").get_by_role(
            "button"
        ).last.click()
    page.mouse.move(0, 0)
    page.wait_for_timeout(3000)  # charts are drawn once more after resizing


def tagged(client: Any, experiment: str) -> str:
    """The id of an experiment, once it has seg's view."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        raise SystemExit(f"error: no experiment is named {experiment!r}")
    for key, value in view.tags().items():
        client.set_experiment_tag(found.experiment_id, key, value)
    return found.experiment_id


def picture(
    database: pathlib.Path,
    experiment: str,
    out: pathlib.Path,
    *,
    page: str = "charts",
    names: tuple[str, ...] = (),
    size: tuple[int, int] = (1600, 1180),
) -> None:
    """Writes a picture of the runs of an experiment, by their names.

    A copy of the database is served, in which there are no other runs.
    """
    import mlflow

    with tempfile.TemporaryDirectory() as folder:
        log, copy = pathlib.Path(folder, "log"), pathlib.Path(folder, "copy.db")
        shutil.copy(database, copy)
        client = mlflow.MlflowClient(f"sqlite:///{copy}")
        found = tagged(client, experiment)
        runs = []
        for run in client.search_runs([found]):
            if not names or run.info.run_name in names:
                runs.append(run.info)
            else:
                client.delete_run(run.info.run_id)
        shown = {run.run_name for run in runs}
        if not runs or not shown.issuperset(names):
            known = ", ".join(sorted(shown)) or "none of them"
            raise SystemExit(f"error: {experiment!r} has of these runs {known}")
        ids = [run.run_id for run in runs]
        with server(f"sqlite:///{copy}", log) as served, browser(*size) as tab:
            show(tab, address(served, found, ids, page), sorted(shown))
            tab.screenshot(path=out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", type=pathlib.Path, default="mlflow.db")
    parser.add_argument("--experiment", default="seg")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--page", default="charts", choices=PAGES)
    parser.add_argument("--runs", default="", help="names, by commas")
    parser.add_argument("--width", type=int, default=1600, help="px")
    parser.add_argument("--height", type=int, default=1180, help="px")
    args = parser.parse_args()
    picture(
        args.database,
        args.experiment,
        args.out,
        page=args.page,
        names=tuple(filter(None, args.runs.split(","))),
        size=(args.width, args.height),
    )


if __name__ == "__main__":
    main()
