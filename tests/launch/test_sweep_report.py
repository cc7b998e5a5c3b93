"""What is told of a sweep: table, pictures, the parent's run."""

import csv
import itertools
import json
import statistics

import numpy as np
import pytest
from PIL import Image

from launch.sweep import report, results, work
from seg import config
from seg.evaluate.plots import sweeps
from seg.train import tracking
from tests.launch import sweep_cases


def _dice(sweep, values):
    for job, value in zip(sweep.jobs(), values, strict=False):
        sweep_cases.finish(job, value)
    found = [results.result(t, sweep.job(t)) for t in sweep.trials()]
    return report.rows(found, sweep.plan, pooled=True), found


def test_the_table_has_means_and_spreads_over_seeds_best_first(tmp_path):
    values = [0.5, 0.6, 0.7, 0.9, 0.7]
    swept = {"model.name": ["unet", "fcn8"]}
    sweep = sweep_cases.opened(
        tmp_path, swept, plan={"seeds": (0, 1, 2)}, evaluate=True
    )
    rows, found = _dice(sweep, values)
    assert [row["trial"] for row in rows] == ["name=fcn8", "name=unet"]
    assert rows[1]["val/dice"] == pytest.approx(statistics.fmean(values[:3]))
    assert rows[1]["val/dice_std"] == pytest.approx(
        statistics.stdev(values[:3])
    )
    assert rows[1]["test/dice"] == pytest.approx(0.5)
    assert rows[0]["val/dice"] == pytest.approx(0.8)
    assert rows[0]["seeds"] == 2 and rows[0]["status"] == "done 2, waiting 1"
    text = report.text(rows, sweep.plan)
    assert "| fcn8 |     2 | 0.800 ± 0.141 |" in text
    assert "1,234" in text
    each = report.rows(found, sweep.plan, pooled=False)
    assert [row.get("val/dice") for row in each] == [
        0.9, 0.7, 0.7, 0.6, 0.5, None,
    ]  # fmt: skip


def test_costs_are_shown_where_networks_differ(tmp_path):
    swept = {"model.name": ["unet", "fcn8"]}
    sweep = sweep_cases.opened(tmp_path, swept)
    for job, gmac in zip(sweep.jobs(), (0.7512, 0.25), strict=True):
        costs = {"model/gmac": gmac, "perf/peak_memory_mib": 1234.5}
        sweep_cases.finish(job, gmac, **costs)
    found = [results.result(t, sweep.job(t)) for t in sweep.trials()]
    rows = report.rows(found, sweep.plan, pooled=True)
    header, _, first, _ = report.text(rows, sweep.plan).splitlines()
    assert "|  GMAC |   MiB |" in header and "tiles/s" not in header
    assert "| 0.751 | 1,234 |" in first
    for row in rows:
        row["model/gmac"] = 1.0
    assert "GMAC" not in report.text(rows, sweep.plan)


def test_minutes_are_those_of_all_resumptions(tmp_path):
    sweep = sweep_cases.opened(tmp_path, {"model.width": [1]})
    sweep_cases.finish(sweep.jobs()[0], 0.5, minutes=2.0)
    for step, seconds in ((10, 120.0), (20, 600.0)):
        folder = sweep.jobs()[0].folder / "checkpoints" / str(step)
        folder.mkdir(parents=True)
        text = json.dumps({"body": {"meta": {"seconds": seconds}}})
        (folder / "manifest.json").write_text(text)
    trial = sweep.trials()[0]
    assert results.result(trial, sweep.job(trial)).minutes == 10


def test_a_checkpoint_that_is_written_or_removed_just_now_is_not_read(
    tmp_path,
):
    sweep = sweep_cases.opened(tmp_path, {"model.width": [1]})
    trial = sweep.trials()[0]
    written = '{"body": {"meta": {"seconds": 120.0}}}'
    for name, text in ("9", written), ("10.part", written[:9]), ("11", "{}"):
        folder = sweep.jobs()[0].folder / "checkpoints" / name
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(text)
    (folder.parent / "12.gone").mkdir()
    assert results.result(trial, sweep.job(trial)).minutes == 2


def test_an_error_is_best_when_low(tmp_path):
    base = config.replace(
        sweep_cases.BASE, {"train.monitor": "val/dice", "train.mode": "min"}
    )
    sweep = sweep_cases.opened(tmp_path, {"model.width": [1, 2, 3]}, base=base)
    rows, _ = _dice(sweep, [0.5, 0.2, 0.3])
    assert [row["model.width"] for row in rows] == [2, 3, 1]
    error = config.replace(
        sweep_cases.BASE, {"train.monitor": "val/count_error"}
    )
    assert error.train.lower_is_better
    assert not sweep_cases.BASE.train.lower_is_better


def test_the_csv_holds_every_metric_and_what_failed(tmp_path):
    sweep = sweep_cases.opened(tmp_path, evaluate=True)
    _dice(sweep, [0.5, 0.25])
    failed = sweep.jobs()[2]
    failed.folder.mkdir()
    failed.write(work.State(failures=1, why='exit 1: "a, b"'))
    report.make(sweep)
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == [
        "done", "done", "waiting", "failed",
    ]  # fmt: skip
    assert float(rows[0]["test/dice"]) == 0.4
    assert rows[3]["error"] == 'exit 1: "a, b"'
    assert rows[2]["val/dice"] == ""
    assert (tmp_path / "parallel.png").exists()


@pytest.mark.parametrize("seeds", [(), (0, 1)])
def test_another_seed_is_a_knob_as_any_other(tmp_path, seeds):
    swept = {"synthetic.seed": [2, 3], "predict.tta": [1, 8]}
    sweep = sweep_cases.opened(tmp_path, swept, plan={"seeds": seeds})
    rows, _ = _dice(sweep, [0.5, 0.6] * len(sweep.trials()))
    assert {(row["synthetic.seed"], row["predict.tta"]) for row in rows} == {
        (2, 1), (2, 8), (3, 1), (3, 8),
    }  # fmt: skip
    assert len({row["trial"] for row in rows}) == 4
    report.make(sweep)
    assert (tmp_path / "parallel.png").exists()


def _colours(path):
    with Image.open(path) as picture:
        return len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3),
                             axis=0))  # fmt: skip


def test_pictures_take_texts_truths_tuples_and_one_trial(tmp_path):
    trials = [
        {
            "terms": "x" * 60 + end,
            "augment": flag,
            "area": (3, k),
            "rate": 10.0**-k,
        }
        for k, (end, flag) in enumerate(itertools.product("ab", (True, False)))
    ]
    path = tmp_path / "parallel.png"
    sweeps.parallel(path, trials, [0.1, 0.2, 0.2, 0.4], label="val/dice")
    assert _colours(path) > 50
    sweeps.parallel(path, trials[:1], [0.1], label="val/dice")
    runs = {
        f"run {k}": [([1, 2], [0.1 * k, 0.2]), ([1], [float("nan")])]
        for k in range(12)
    }
    sweeps.courses(tmp_path / "curves.png", runs, label="val/dice")
    assert _colours(tmp_path / "curves.png") > 20


def test_numbers_lie_by_their_logarithms_where_those_are_even():
    assert sweeps._is_log(np.array([1e-3, 3e-3, 1e-2]))
    assert sweeps._is_log(np.array([16, 32, 64]))
    assert not sweeps._is_log(np.linspace(0.01, 0.5, 20))
    assert not sweeps._is_log(np.array([2, 3, 4]))


def test_long_texts_that_begin_alike_stay_two_categories():
    axis = sweeps._Axis(["cross_entropy + dice, a", "cross_entropy + dice, b"],
                        [0, 1])  # fmt: skip
    assert len(axis.ticks) == 2 and axis.at[0] != axis.at[1]


def test_the_parents_run_is_one_and_tells_the_best_trial(tmp_path):
    base = config.replace(
        sweep_cases.BASE, {"track.uri": f"jsonl:{tmp_path}/spool"}
    )
    sweep = sweep_cases.opened(tmp_path / "w", base=base)
    _, found = _dice(sweep, [0.5, 0.75])
    runs = set()
    for _ in range(2):
        parent = report.Parent(sweep, {"sweep": "model.name"})
        parent.begin()
        runs.add(parent.run)
        parent.end(found, [tmp_path / "w/sweep.json"], "KILLED")
    assert len(runs) == 1
    (spool,) = (tmp_path / "spool").iterdir()
    records = [
        json.loads(line)
        for line in (spool / "spool.jsonl").read_text().splitlines()
    ]
    starts = [record for record in records if record["kind"] == "start"]
    assert {record["run"] for record in starts} == runs
    assert starts[-1]["tags"]["sweep.best"] == "name=unet,learning_rate=0.003"
    assert "model.name" not in starts[0]["params"]
    assert starts[0]["params"]["model.in_channels"] == "1"
    ((at, values),) = tracking.jsonl.history(spool / "spool.jsonl")
    assert (at, values["val/dice"]) == (2, 0.75)
    ends = [r["status"] for r in records if r["kind"] == "finish"]
    assert ends == ["KILLED", "KILLED"]
