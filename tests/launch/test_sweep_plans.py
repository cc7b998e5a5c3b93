"""What a SWEEP becomes: plans, their names, and what a search proposes."""

import itertools
import pathlib
import statistics

import numpy as np
import pytest

from launch.compare import knobs
from launch.sweep import plan, search
from seg import config
from tests.launch import sweep_cases


def test_a_grid_is_all_combinations_by_readable_names():
    made = plan.make(sweep_cases.BASE, sweep_cases.GRID)
    points = {tuple(trial.changes.values()) for trial in made.trials}
    assert points == set(itertools.product(*sweep_cases.GRID.values()))
    assert made.trials[1].name == "name=unet,learning_rate=0.003"
    trained = made.config(made.trials[1])
    assert config.diff(sweep_cases.BASE, trained) == [
        "optim.learning_rate: 0.001 -> 0.003"
    ]


def test_a_list_is_exactly_its_trials():
    swept = [
        {"model.name": "unet", "model.width": 32},
        {"model.name": "fcn8", "predict.min_area": [5]},
    ]
    first, second = plan.make(sweep_cases.BASE, swept).trials
    assert first.name == "name=unet,width=32"
    assert second.changes == {"model.name": "fcn8", "predict.min_area": (5,)}


def test_values_and_seeds_can_be_added_and_the_names_stay():
    before = plan.make(
        sweep_cases.BASE, {"model.width": [8], "train.epochs": [1]}
    )
    after = plan.make(
        sweep_cases.BASE,
        {"model.width": [8, 16], "train.epochs": [1, 2]},
        seeds=(0, 1),
    )
    assert before.trials[0] in [
        plan.Trial(trial.name, before.trials[0].changes)
        for trial in after.trials
    ]
    assert len({trial.name for trial in after.trials}) == 8
    assert len({after.setting(t).name for t in after.trials}) == 4


def test_the_names_stay_where_seeds_join_another_seed():
    swept = {"synthetic.seed": [2]}
    before = plan.make(sweep_cases.BASE, swept).trials[0].name
    after = plan.make(sweep_cases.BASE, swept, seeds=(0, 1)).trials
    assert [trial.name for trial in after] == [before, f"{before},seed=1"]


def test_floats_that_differ_have_names_that_do():
    found = {
        plan.make(sweep_cases.BASE, {"optim.learning_rate": [rate]})
        .trials[0]
        .name
        for rate in (0.00123412, 0.00123449, 1e-05, 1.0)
    }
    assert len(found) == 4
    assert {"learning_rate=1e-05", "learning_rate=1"} < found


def test_names_suit_a_file_system_and_tell_trials_apart():
    terms = ["dice + focal", "dice+focal", "0.5*dice", "dice, from 0.5: focal"]
    terms.append("cross_entropy + " * 20 + "dice")
    made = plan.make(sweep_cases.BASE, {"loss.terms": terms})
    found = [trial.name for trial in made.trials]
    assert len(set(found)) == len(terms)
    assert all(len(name) <= 100 and "/" not in name for name in found)


def test_the_same_last_part_of_two_knobs_is_written_out():
    labels = knobs.labels(["model.name", "optim.name", "model.width"])
    assert list(labels.values()) == ["model.name", "optim.name", "width"]


@pytest.mark.parametrize(
    ("swept", "words"),
    [
        ({"model.nam": ["unet"]}, "did you mean model.name"),
        ({"model.width": [8, "9"]}, "'9' is not of type int"),
        ({"model.width": [8, -8]}, "width=-8; it must be positive"),
        ({"model.width": 8}, "give a list of values"),
        ({"model.width": []}, "give a list of values"),
        ({"model.dropout": ("uniform", 0, 1)}, "add 'search'"),
        ({"trials": [3]}, "add 'search'"),
        ({"train.monitor": ["val/iou"]}, "same for all trials"),
        ({"track.uri": ["none"]}, "same for all trials"),
        ([{"model.width": 8}, {"model.width": 8}], "two trials are the same"),
        ([{"model.width": 8}, {}], None),
        (["model.width"], "each trial is a dict"),
        ([{"model.n_classes": 3}], "model.n_classes=3 needs 3"),
        ([], "a dict of lists"),
        ("unet", "a dict of lists"),
        ({"search": "tpee", "model.width": [8]}, "did you mean tpe"),
        ({"search": "tpe"}, "names no knob"),
        ({"search": "tpe", "trials": 0, "model.width": [8]}, "whole number"),
        ({"search": "tpe", "model.dropout": ("lg", 0, 1)}, "did you mean log"),
        ({"search": "tpe", "optim.ema": ("log", 0, 0.5)}, "begins above 0"),
        ({"search": "tpe", "optim.ema": ("uniform", 0.5, 0.5)}, "low, high"),
        ({"search": "tpe", "optim.ema": ("uniform", 0, 1)}, "optim.ema=1.0"),
        ({"search": "tpe", "model.depth": ("uniform", 1, 3)}, "type int"),
        ({"search": "tpe", "model.nam": [8]}, "did you mean model.name"),
    ],
)
def test_what_does_not_fit_is_refused_at_the_door(swept, words):
    if words is None:
        assert plan.make(sweep_cases.BASE, swept).trials[1].name == "base"
        return
    with pytest.raises(config.ConfigError, match=r".") as caught:
        plan.make(sweep_cases.BASE, swept)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_seeds_are_for_what_has_none():
    with pytest.raises(config.ConfigError, match="leave --seeds out"):
        plan.make(sweep_cases.BASE, {"train.seed": [0, 1]}, seeds=(0, 1))
    with pytest.raises(config.ConfigError, match="grids and lists"):
        plan.make(
            sweep_cases.BASE,
            {"search": "tpe", "model.width": [8]},
            seeds=(0, 1),
        )


def test_a_loss_cannot_judge_predictions():
    base = config.replace(sweep_cases.BASE, {"train.monitor": "val/loss"})
    with pytest.raises(config.ConfigError, match="does not depend on it"):
        plan.make(base, {"predict.tta": [1, 8]})


def test_experiments_sweep_what_can_be_swept():
    folder = pathlib.Path(__file__).parents[2] / "experiments"
    from seg import flags

    for path in sorted(folder.glob("*.py")):
        module = flags.experiment_module(path)
        if hasattr(module, "SWEEP"):
            assert plan.make(module.get_config(), module.SWEEP).knobs


# ---------------------------------------------------------------- searches


def _score(point):
    return -abs(np.log10(point["optim.learning_rate"]) + 3)


def _searched(swept, n, known=()):
    space = plan.make(sweep_cases.BASE, swept).search
    known = list(known)
    while len(known) < n:
        point = search.propose(space, known, lower=False)
        known.append((point, _score(point), True))
    return known


@pytest.mark.parametrize("method", ["tpe", "random"])
def test_a_search_that_goes_on_proposes_what_it_would_have(method):
    swept = sweep_cases.SPACE | {"search": method}
    whole = _searched(swept, 12)
    assert _searched(swept, 12, whole[:5]) == whole
    assert _searched(swept | {"seed": 1}, 1) != whole[:1]
    for point, _, _ in whole:
        config.check(config.replace(sweep_cases.BASE, point))
        assert 1e-4 <= point["optim.learning_rate"] <= 1e-2
        assert point["model.depth"] in (2, 3, 4)
        assert point["predict.min_area"] in [(3,), (5,)]


@pytest.mark.parametrize(
    "values", [("uniform", 0.999, 0.9999), ("log", 1e-5, 1e-1)]
)
def test_numbers_are_short_and_still_many(values):
    distribution = search._distribution(search.library(), values)
    kind, low, high = values
    spread = np.linspace if kind == "uniform" else np.geomspace
    short = {
        search._short(float(v), distribution) for v in spread(low, high, 500)
    }
    assert len(short) > 450 and low <= min(short) <= max(short) <= high
    assert max(len(repr(v)) for v in short) <= 10


def test_tpe_learns_where_good_scores_are():
    found = [score for _, score, _ in _searched(sweep_cases.SPACE, 40)]
    assert statistics.fmean(found[20:]) > statistics.fmean(found[:10])


def test_failed_and_running_trials_count_and_none_comes_twice():
    swept = {"search": "tpe", "model.width": [8, 16], "train.augment": [True]}
    space = plan.make(sweep_cases.BASE, swept).search
    known = []
    for score, ended in ((None, True), (float("nan"), False)):
        point = search.propose(space, known, lower=True)
        assert point not in [before for before, _, _ in known]
        known.append((point, score, ended))
    assert search.propose(space, known, lower=True) is None
