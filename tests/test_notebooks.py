"""The notebooks run from the first cell to the last, on tiny images."""

import os
import pathlib

import nbclient
import nbformat
import numpy as np
import pytest
from PIL import Image

from seg import config
from seg.data import synthetic
from seg.train import tracking

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "experiments"
FOLDER = FOLDER / "notebooks"
NAMES = {
    "compare_runs",
    "explore_images",
    "process_new_images",
    "train_on_your_images",
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder with images/ and masks/ of twelve drawn images."""
    folder = tmp_path_factory.mktemp("mine")
    spec = config.Synthetic(height=96, width=96, n_objects=8, diameter=16.0)
    for i in range(12):
        drawn = synthetic.draw(spec, i)
        for kind, pixels in (
            ("images", drawn["image"][..., 0]),
            ("masks", drawn["labels"].astype(np.uint16)),
        ):
            (folder / kind).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(folder / kind / f"{i:02d}.png")
    return folder


def opened(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def run(name, **constants):
    """The text that a notebook prints, with these constants in place."""
    notebook = opened(name)
    first = next(c for c in notebook.cells if c.cell_type == "code")
    lines = [
        f"{line.split(' = ')[0]} = {constants.pop(line.split(' = ')[0])!r}"
        if line.split(" = ")[0] in constants
        else line
        for line in first.source.splitlines()
    ]
    assert not constants
    first.source = "\n".join(lines).replace("PosixPath", "pathlib.Path")
    client = nbclient.NotebookClient(
        notebook,
        timeout=250,
        resources={"metadata": {"path": str(FOLDER)}},
    )
    client.execute(env=dict(os.environ))
    return "".join(
        output.get("text", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )


def test_they_are_all_here():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_notebook_is_short_and_kept_without_outputs(name):
    cells = opened(name).cells
    assert len(cells) < 15
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_script_beside_it_is_the_same(name):
    jupytext = pytest.importorskip("jupytext")
    script = jupytext.read(FOLDER / f"{name}.py")
    assert [(cell.cell_type, cell.source) for cell in script.cells] == [
        (cell.cell_type, cell.source) for cell in opened(name).cells
    ], "jupytext --sync"


def test_explore(images, tmp_path):
    text = run("explore_images", DATA=images, WORKDIR=tmp_path)
    assert "12 images" in text and "96x96" in text


def test_compare(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    picture = tmp_path / "first_1.png"
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(picture)
    for width, dice in ((8, 0.5), (16, 0.75)):
        settings = config.replace(
            config.Config(), {"model.width": width, "track.uri": uri}
        )
        run_of = tracking.build(settings.track, tmp_path / f"width{width}")
        run_of.start(settings, {})
        for step in (1, 2):
            run_of.metrics(step, {"val/dice": dice * step / 2})
        run_of.artifact(picture, "overlays")
        run_of.finish("FINISHED")
    text = run("compare_runs", URI=uri)
    assert "2 runs, the best: width16" in text
    assert text.count("overlays/first_1.png") == 2


@pytest.mark.slow
def test_train_then_process(images, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/m.db")
    mine = tmp_path / "mine"
    text = run("train_on_your_images", DATA=images, WORKDIR=mine, EPOCHS=1)
    assert "val/dice" in text and "ap50" in text
    out = tmp_path / "out"
    text = run(
        "process_new_images", IMAGES=images / "images", MODEL=mine, OUT=out
    )
    assert "objects in" in text and "crops" in text
    assert (out / "objects.csv").is_file()
    assert len(list(out.glob("*_labels.tif"))) == 12
