"""Claims about `seg train`: what it chooses, starts from, and says."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from seg import config
from seg.data import synthetic
from seg.evaluate import survey
from seg.predict import bundle
from seg.train import recipe

SMALL = (
    "--model.width=4", "--model.depth=1", "--data.tile=32",
    "--train.batch_size=2", "--train.steps=2", "--track.uri=jsonl:spool",
    "--model=none",
)  # fmt: skip


@pytest.fixture
def labelled():
    """A folder `cells` of four drawn images with their masks."""
    spec = config.Synthetic(height=64, width=72, n_objects=6, diameter=14.0)
    for i in range(4):
        found = synthetic.draw(spec, i)
        for kind, key in (("images", "image"), ("masks", "labels")):
            folder = pathlib.Path("cells", kind)
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.squeeze(found[key])
            kept = np.uint8 if key == "image" else np.uint16
            Image.fromarray(pixels.astype(kept)).save(folder / f"{i}.png")
    return pathlib.Path("cells")


def test_a_folder_becomes_a_model_which_a_second_one_starts_from(run, labelled):
    status, told, _ = run("train", labelled, *SMALL)
    assert status == 0, told
    assert "4 images (3 train, 1 val)" in told
    assert "--train.steps=2" in told and "as given" in told
    assert "Dice of the foreground" in told and "before" not in told
    first = bundle.load("runs/cells/bundle")
    assert first.config.data.layout == "folders"
    assert first.config.predict.separate == "learned"

    status, told, log = run(
        "train", labelled, "--model=runs/cells", "--workdir=runs/more",
        "--train.steps=1", "--train.batch_size=2", "--data.tile=32",
        "--track.uri=jsonl:spool", "--optim.learning_rate=1e-9",
    )  # fmt: skip
    assert status == 0, log
    assert "before" in told
    second = bundle.load("runs/more/bundle")
    assert second.config.model == first.config.model
    assert second.meta["started_from"] == bundle.digest(first)
    name = next(k for k in first.weights if k.endswith("kernel"))
    np.testing.assert_allclose(
        second.weights[name], first.weights[name], atol=1e-6
    )
    # run again, it is complete, and says the same
    assert run("train", labelled, "--model=runs/cells",
               "--workdir=runs/more", "--train.steps=1",
               "--train.batch_size=2", "--data.tile=32",
               "--track.uri=jsonl:spool",
               "--optim.learning_rate=1e-9")[0] == 0  # fmt: skip


def test_a_model_of_another_network_is_refused(run, labelled):
    assert run("train", labelled, *SMALL)[0] == 0
    status, _, told = run(
        "train", labelled, "--model=runs/cells", "--workdir=runs/more",
        "--model.width=8", *SMALL[2:-1],
    )  # fmt: skip
    assert status == 2 and "weights fit" in told.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("none",), "data.path=none does not exist"),
        ((), "0 arguments; give DIR"),
        (("cells", "--model=nothing"), "no model 'nothing'"),
        (("empty",), "no labelled images"),
    ],
)
def test_what_cannot_train_is_one_line(run, labelled, arguments, message):
    pathlib.Path("empty").mkdir()
    status, _, told = run("train", *arguments)
    assert status == 2 and message in told and told.count("\n") == 1


def test_defects_are_all_listed(run, labelled):
    for name in ("0.png", "2.png"):
        (labelled / "masks" / name).unlink()
    status, told, error = run("train", labelled, *SMALL)
    assert status == 2 and "2 defects" in error
    assert "images/0.png" in told and "images/2.png" in told


def test_labelme_names_become_classes(run):
    folder = pathlib.Path("drawn")
    folder.mkdir()
    for i in range(3):
        Image.fromarray(np.full((40, 40), 50 * i, np.uint8)).save(
            folder / f"{i}.png"
        )
        shapes = [
            {"label": name, "shape_type": "polygon",
             "points": [[x, 5], [x + 9, 5], [x + 9, 20], [x, 20]]}
            for name, x in (("round", 3), ("long", 15), ("round", 28))
        ]  # fmt: skip
        (folder / f"{i}.json").write_text(
            json.dumps({"shapes": shapes, "imagePath": f"{i}.png"})
        )
    assert run("train", folder, *SMALL)[0] == 0
    found = bundle.load("runs/drawn/bundle").config
    assert found.classes == ("background", "round", "long")
    assert found.model.n_classes == 3


def surveyed(sides, areas, n=10, split="train"):
    row = {
        "split": split, "rows": sides[0], "cols": sides[1], "n_objects": 5,
        "foreground": 0.05,
    }  # fmt: skip
    return survey.Survey([row] * n, np.array(areas), {}, np.zeros(0), [])


@pytest.mark.parametrize(
    "sides, areas, tile",
    [
        ((520, 696), [450] * 9, 160),
        ((520, 696), [4000] * 9, 448),
        ((100, 90), [4000] * 9, 96),
        ((2000, 2000), [20] * 9, 128),
        ((2000, 2000), [], 256),
    ],
)
def test_tiles_hold_some_objects_and_fit_the_images(sides, areas, tile):
    choices = recipe.choose(surveyed(sides, areas), recipe.base(None), False)
    chosen = {one.knob: one.value for one in choices}
    assert chosen["data.tile"] == tile
    assert chosen["train.steps"] == 1500
    settled = recipe.applied(recipe.base(None), choices, {"data.tile": 64})
    assert settled.data.tile == 64
    assert config.check(settled)


def test_a_trained_model_takes_fewer_and_smaller_steps():
    found = surveyed((520, 696), [450] * 9)
    fresh, tuned = (
        {one.knob: one.value for one in recipe.choose(
            found, recipe.base(None), tunes)}
        for tunes in (False, True)
    )  # fmt: skip
    for knob in ("train.steps", "optim.learning_rate"):
        assert tuned[knob] < fresh[knob] / 2
