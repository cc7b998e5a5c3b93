"""Claims about `seg train`: what it chooses, starts from, and says."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from seg import config
from seg.commands import train
from seg.data import synthetic
from seg.evaluate import report, survey
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
    assert "of the 1 validation image:" in told
    assert "One image says little" in told
    first = bundle.load("runs/cells/bundle")
    assert first.config.data.layout == "folders"
    assert first.config.predict.separate == "learned"

    status, told, log = run(
        "train", labelled, "--model=runs/cells", "--workdir=runs/more",
        "--train.steps=1", "--train.batch_size=2", "--data.tile=32",
        "--track.uri=jsonl:spool", "--optim.learning_rate=1e-9",
    )  # fmt: skip
    assert status == 0, log
    # nothing has changed
    assert "No better than before: mean AP" in told
    assert "next: the same command" in told and "seg predict" not in told
    assert "keep --model=runs/cells" in told
    assert "images in colour" not in told
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


def test_a_model_that_finds_nothing_is_not_recommended(run, labelled):
    status, told, _ = run("train", labelled, *SMALL, "--predict.threshold=0.99")
    assert status == 0
    assert "It finds nothing at all, of " in told
    assert "--train.steps=1000 --workdir=runs/cells-2" in told
    assert "seg predict" not in told


def scored(n_found=5, **metrics):
    metrics = {f"val/{name}": value for name, value in metrics.items()}
    rows = [{"n_true": 4, "n_found": n_found}] * 2
    return report.Report("val", metrics, {}, rows)


@pytest.mark.parametrize(
    "monitor, before, after, is_worth, told",
    [
        ("val/ap_mean", {"ap_mean": 0.2}, {"ap_mean": 0.3}, True, "Better"),
        ("val/ap_mean", {"ap_mean": 0.3}, {"ap_mean": 0.2}, False, "Worse"),
        ("val/ap_mean", {"ap_mean": 0.3}, {"ap_mean": 0.3001}, False, "No"),
        ("val/count_error", {"count_error": 0.3}, {"count_error": 0.2}, True,
         "Better"),
        ("val/count_error", {"count_error": 1}, {"count_error": 2}, False,
         "Worse"),
        ("val/loss", {"dice": 0.3}, {"dice": 0.4}, True, "Better"),
    ],
)  # fmt: skip
def test_the_verdict_is_by_what_is_monitored(
    monitor, before, after, is_worth, told
):
    knobs = config.Train(monitor=monitor)
    found = train._verdict(scored(**before), scored(**after), knobs)
    assert found[0] == is_worth and found[1].startswith(told)
    assert "0." in found[1] or "2." in found[1]


def test_to_find_nothing_is_worse_whatever_the_count_says():
    knobs = config.Train(monitor="val/count_error")
    before, after = scored(700, count_error=173), scored(0, count_error=1)
    is_worth, told = train._verdict(before, after, knobs)
    assert not is_worth and told.endswith("of 8 objects: worse than before.")
    assert train._verdict(None, after, knobs)[0] is False
    assert train._verdict(None, before, knobs) == (True, "")


def test_colour_is_that_of_the_images():
    settings = config.replace(recipe.base(None), {"model.in_channels": 3})
    seen = surveyed((64, 64), [100] * 9, n=2)
    grey = np.full((8, 8, 3), 9, np.uint8)
    red = grey * np.array([2, 1, 1], np.uint8)
    for thumbnails, why in (
        ([grey, grey], None),
        ([grey, red], "1 of 2 images in colour"),
        ([red, red], "images in colour"),
    ):
        one = dataclasses.replace(seen, thumbnails=thumbnails)
        choices = recipe.choose(one, settings, tunes=True)
        chosen = {each.knob: each.why for each in choices}
        assert chosen.get("augment.colour") == why


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


@pytest.mark.parametrize("name, is_smaller", [("adamw", True), ("muon", False)])
def test_a_trained_model_takes_fewer_steps_and_adamw_smaller_ones(
    name, is_smaller
):
    found = surveyed((520, 696), [450] * 9)
    base = config.replace(recipe.base(None), {"optim.name": name})
    fresh, tuned = (
        {one.knob: one.value for one in recipe.choose(found, base, tunes)}
        for tunes in (False, True)
    )
    assert tuned["train.steps"] < fresh["train.steps"] / 2
    rates = (tuned["optim.learning_rate"], fresh["optim.learning_rate"])
    assert (rates[0] < rates[1]) == is_smaller
