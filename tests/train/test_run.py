"""Claims about a training from a config to a bundle, in this process.

What a kill does to it is in tests/launch/test_train.py.
"""

import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import shutil

import numpy as np
import pytest
from flax import nnx

import seg
from seg import config, models, normalize
from seg.data import records, synthetic
from seg.evaluate import report
from seg.models import blocks
from seg.predict import bundle
from seg.train import checkpoint, mesh, run, step, tracking, workdirs

KNOBS = {
    "model.width": 2,
    "model.depth": 1,
    "model.norm": "batch",
    "data.tile": 32,
    "data.gap": 1,
    "synthetic.height": 48,
    "synthetic.width": 40,
    "synthetic.n_objects": 4,
    "synthetic.diameter": 12,
    "optim.ema": 0.5,
    "optim.learning_rate": 0.01,
    "train.augment": False,
    "train.batch_size": 4,
    "train.epochs": 2,
    "train.log_every": 1,
    "predict.tile": 32,
    "predict.closing": 3,
    "track.uri": "jsonl:spool?token=hunter2",
}
COUNTS = {"train": 3, "val": 2, "test": 2}
PATH = pathlib.Path("work")


def settings(**changes):
    changes = {k.replace("__", "."): v for k, v in changes.items()}
    return config.replace(config.Config(), KNOBS | changes)


def drawn(digest="d1", **counts):
    """Records in memory."""
    spec = settings().synthetic
    counts = COUNTS | counts

    def read(split, i):
        record = synthetic.draw(spec, 10 * list(COUNTS).index(split) + i)
        about = {"id": f"{split}{i}", "group": f"{split}{i}"}
        stats = normalize.measure(record["image"])
        return record | about | {"stats": stats}

    index = {
        split: [
            {"id": f"{split}{i}", "group": f"{split}{i}", "shape": [48, 40]}
            for i in range(n)
        ]
        for split, n in counts.items()
    }
    return records.Records(index, digest, read, 64, settings())


def packed(path, *args, **kwargs):
    records.pack(drawn(*args, **kwargs), settings(), path, records.SPLITS)
    return str(path)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    return packed(tmp_path_factory.mktemp("pack") / "tiles.npz")


@pytest.fixture(scope="module")
def trained(tiles, tmp_path_factory):
    """(folder of workdir `work` and `spool`, course) of a whole training."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        level = logging.getLogger("seg").level
        logging.getLogger("seg").setLevel(logging.INFO)
        try:
            return folder, train(tiles=tiles)
        finally:
            logging.getLogger("seg").setLevel(level)


@pytest.fixture
def workdir(trained):
    """A copy of the trained workdir, whose training is not complete."""
    shutil.copytree(trained[0], ".", dirs_exist_ok=True)
    found = pathlib.Path("work")
    (found / "done").unlink()
    return found


def train(workdir="work", tiles=None, **changes):
    return run.train(
        settings(**changes), pathlib.Path(workdir), tiles=str(tiles)
    )


def refused(match, *args, **kwargs):
    with pytest.raises(config.UserError, match=match) as caught:
        train(*args, **kwargs)
    assert "\n" not in str(caught.value)


def test_a_workdir_holds_all_that_is_promised(trained):
    folder, course = trained
    work = folder / "work"
    names = {path.name for path in work.iterdir()}
    assert names >= {
        "config.json", "data_digest", "checkpoints", "bundle", "log.txt",
        "run_id", "done", "lock", "curves",
    }  # fmt: skip
    told = config.from_json((work / "config.json").read_text())
    assert told == settings(track__uri="jsonl:spool?token=***")
    assert (work / "data_digest").read_text() == "d1\n"
    log = (work / "log.txt").read_text()
    assert "parameters; 6 steps of 4 tiles, 3 a pass" in log
    assert "step 6/6" in log
    assert course.done and course.best_step in (3, 6)
    assert workdirs.is_done(work) and not workdirs.is_done(folder)


def test_the_record_of_a_run_is_whole(trained):
    folder, _ = trained
    (path,) = folder.glob("spool*/*/spool.jsonl")
    told = [json.loads(line) for line in path.read_text().splitlines()]
    kinds = [record["kind"] for record in told]
    assert kinds[0] == "start" and kinds[-1] == "finish"
    assert kinds.count("model") == 1 and told[-1]["status"] == "FINISHED"
    assert told[0]["tags"]["data_digest"] == "d1"
    assert told[0]["params"]["model.width"] == "2"
    last = {}
    for record in told:
        last |= record.get("values", {})
    wanted = {"train/loss", "val/loss", "val/dice", "val/iou", "val/ap50"}
    wanted |= {"val/miou", "val/pq", "val/count_error", "val/dice_nucleus"}
    assert last.keys() >= wanted
    artifacts = [r["path"] for r in told if r["kind"] == "artifact"]
    assert any(path.endswith("config.json") for path in artifacts)
    assert any("curves/" in path for path in artifacts)


def test_the_bundle_gives_the_scores_of_the_best_validation(trained):
    folder, course = trained
    found = bundle.load(folder / "work" / "bundle")
    assert found.meta["step"] == course.best_step
    assert found.meta["data_digest"] == "d1"
    predictor, data = seg.load(folder / "work"), drawn()
    scores = report.evaluate(
        lambda record: predictor(record["image"]),
        (data.read("val", i) for i in range(2)),
        settings().classes,
        "val",
        intervals=False,
    ).metrics
    told = found.meta["metrics"]
    for name, value in scores.items():
        assert told[name] == pytest.approx(value, abs=1e-6), name
    assert told["val/dice"] == course.best
    assert np.isfinite(told["val/loss"])


def test_what_was_not_recorded_to_the_end_is_made_up_for(workdir, tiles):
    before = (workdir / "checkpoints" / "6" / "manifest.json").read_bytes()
    course = train(tiles=tiles)
    assert course.done and workdirs.is_done(workdir)
    after = (workdir / "checkpoints" / "6" / "manifest.json").read_bytes()
    assert after == before


def test_another_config_is_refused_with_what_differs(workdir, tiles):
    kept = (workdir / "config.json").read_text()
    refused(
        r"trained with another config \(optim.learning_rate: 0.01 -> 0.1; "
        r"train.seed: 0 -> 1\).*resume_changed",
        tiles=tiles,
        optim__learning_rate=0.1,
        train__seed=1,
    )
    assert (workdir / "config.json").read_text() == kept


def test_what_changes_no_number_may_differ(workdir, tiles):
    course = train(
        tiles=tiles,
        data__dir="elsewhere",
        train__log_every=5,
        train__keep=3,
        track__uri="none",
        track__run_name="again",
    )
    assert course.done


def test_other_data_are_refused(workdir):
    other = packed("other.npz", digest="d2")
    refused(r"other data \(digest d1, now d2\).*resume_changed", tiles=other)
    assert (workdir / "data_digest").read_text() == "d1\n"
    allowed = {"train__resume_changed": True, "train__patience": 7}
    assert train(tiles=other, **allowed).done
    assert (workdir / "data_digest").read_text() == "d2\n"
    told = config.from_json((workdir / "config.json").read_text())
    assert told.train.patience == 7


def test_another_network_is_refused_with_its_leaves(workdir, tiles):
    refused(
        "another model: .*kernel",
        tiles=tiles,
        train__resume_changed=True,
        model__width=3,
    )


def test_a_config_file_that_is_no_config_is_named(workdir, tiles):
    (workdir / "config.json").write_text('{"model": {"wdith": 3}}')
    refused("work/config.json: unknown knob 'model.wdith'", tiles=tiles)


def test_a_workdir_that_cannot_be_written_is_told_before_all_else():
    pathlib.Path("file").touch()
    for place in ("file", "file/run", "/proc/run", "/proc"):
        refused(f"^{place}: cannot be written", place, tiles="absent.npz")


def test_a_workdir_in_use_is_refused():
    with checkpoint.lock("work"):
        refused(f"in use by process {os.getpid()}", tiles="absent.npz")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__tile": 33}, "data.tile=33 .* stride 2; choose 32 or 34"),
        ({"data__tile": 1}, "data.tile=1 .* stride 2; choose 2$"),
        ({"train__monitor": "val/dise"}, "did you mean val/dice"),
        ({"model__name": "unnet"}, "did you mean unet"),
        ({"model__in_channels": 3}, "holds 1 channels, the config has 3"),
        (
            {"classes": ("a", "b", "c"), "model__n_classes": 3},
            "holds 2 classes, the config has 3",
        ),
        ({"loss__terms": "dicee"}, "did you mean dice"),
        ({"loss__terms": "lovasz_softmax"}, "loss.terms"),
    ],
)
def test_a_mistake_leaves_nothing_that_the_mended_run_must_fight(
    tiles, changes, message
):
    refused(message, tiles=tiles, **changes)
    assert not pathlib.Path("work/config.json").exists()
    assert not pathlib.Path("work/checkpoints").exists()


def test_a_password_is_written_nowhere(trained):
    paths = [path for path in trained[0].rglob("*") if path.is_file()]
    assert any(path.name == "model.json" for path in paths)
    assert not [path for path in paths if b"hunter2" in path.read_bytes()]


def test_without_validation_the_last_weights_are_the_bundle():
    alone = packed("alone.npz", val=0)
    course = train(tiles=alone, track__uri="none")
    assert course.best is None and course.best_step == 6
    assert bundle.load("work/bundle").meta["step"] == 6


def test_missing_records_say_how_to_prepare_them():
    refused("not prepared .*launch.prepare", tiles="")
    refused("no pack at absent.npz", tiles="absent.npz")


def test_a_score_measured_anew_replaces_the_old_one(workdir):
    found = report.Report(
        "test", {"test/dice": 0.5}, {"test/dice": (0.4, 0.6)}, []
    )
    run.record(settings(), workdir, 6, found)
    better = dataclasses.replace(found, metrics={"test/dice": 0.75})
    run.record(settings(), workdir, 6, better)
    tracker = tracking.build(settings().track, workdir)
    told = [
        (at, values)
        for at, values in tracking.history(tracker)
        if any(name.startswith("test/") for name in values)
    ]
    assert told == [
        (6, {"test/dice": 0.5}),
        (6, {"test/dice_low": 0.4, "test/dice_high": 0.6}),
        (6, {"test/dice": 0.75}),
    ]


@pytest.mark.parametrize("done", [True, False])
def test_an_evaluation_leaves_the_status_of_the_run(workdir, done):
    found = report.Report("test", {"test/dice": 0.5}, {}, [])
    (spool,) = pathlib.Path("spool?token=hunter2").glob("*/spool.jsonl")
    before = spool.read_text()
    if done:
        (workdir / "done").touch()
    run.record(settings(), workdir, 6, found)
    told = spool.read_text().removeprefix(before).splitlines()
    kinds = [json.loads(line)["kind"] for line in told]
    assert kinds == ["start", "artifact", "metrics"]
    # trained with no tracker, or another: then the run is the evaluation's
    other = settings(track__uri="jsonl:other")
    (workdir / "run_id").unlink()
    run.record(other, workdir, 6, found)
    (spool,) = pathlib.Path("other").glob("*/spool.jsonl")
    last = json.loads(spool.read_text().splitlines()[-1])
    assert last["status"] == ("FINISHED" if done else "KILLED")


def test_the_log_file_is_closed_and_grows(workdir, tiles):
    before = (workdir / "log.txt").read_text()
    handlers = list(logging.getLogger().handlers)
    train(tiles=tiles)
    assert logging.getLogger().handlers == handlers
    assert (workdir / "log.txt").read_text().startswith(before)


def test_a_refused_resumption_leaves_the_run_as_it_was(workdir, tiles):
    kept = (workdir / "config.json").read_text()
    refused(
        "another model",
        tiles=tiles,
        train__resume_changed=True,
        model__width=3,
    )
    assert (workdir / "config.json").read_text() == kept
    assert train(tiles=tiles).done


def test_fewer_steps_than_are_done_end_at_once(workdir, tiles):
    short = {"train__resume_changed": True, "train__steps": 4}
    assert train(tiles=tiles, **short).done
    assert checkpoint.Checkpoints(workdir / "checkpoints").latest() == 6


def test_a_run_that_is_made_longer_is_not_complete_before_its_end(
    workdir, tiles, monkeypatch
):
    (workdir / "done").touch()
    longer = {"train__resume_changed": True, "train__epochs": 3}

    def killed(job):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run.loop, "train", killed)
        train(tiles=tiles, **longer)
    assert not workdirs.is_done(workdir)
    longer.pop("train__resume_changed")  # it is the run's own config now
    assert train(tiles=tiles, **longer).done and workdirs.is_done(workdir)
    assert checkpoint.Checkpoints(workdir / "checkpoints").latest() == 9


def test_killed_at_its_very_end_a_run_trains_no_further(tiles, monkeypatch):
    patient = {"train__patience": 1, "train__epochs": 9, "track__uri": "none"}
    patient |= {"optim__learning_rate": 1e-30, "model__norm": None}

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, "_finish", killed)
        train(tiles=tiles, **patient)
    found = checkpoint.Checkpoints("work/checkpoints")
    at = found.latest()
    assert at < 27 and found.meta()["done"] and not workdirs.is_done(PATH)
    assert train(tiles=tiles, **patient).done and workdirs.is_done(PATH)
    assert found.latest() == at


def test_without_its_checkpoints_a_complete_run_is_complete(workdir, tiles):
    (workdir / "done").touch()
    shutil.rmtree(workdir / "checkpoints")
    train(tiles=tiles, train__resume_changed=True)
    assert workdirs.is_done(workdir) and not (workdir / "checkpoints").exists()


def test_a_complete_run_stays_so_whatever_may_change(workdir, tiles):
    (workdir / "done").touch()
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*.json*")}
    assert train(tiles=tiles, train__resume_changed=True).done
    after = {p: p.stat().st_mtime_ns for p in workdir.rglob("*.json*")}
    assert after == before


def test_scores_of_another_monitor_compare_with_none(workdir, tiles):
    course = train(
        tiles=tiles,
        train__resume_changed=True,
        train__epochs=3,
        train__monitor="val/loss",
    )
    meta = bundle.load(workdir / "bundle").meta
    assert course.best_step == meta["step"] == 9
    assert course.best == meta["metrics"]["val/loss"]


# ------------------------------------------------ cycles and averaged weights
AVERAGED = {
    "optim__ema": 0.0,
    "optim__swa": 0.5,  # of 6 steps: 4, 5 and 6
    "optim__swa_every": 1,
    "optim__cycles": 2,
    "optim__name": "sgd",
    "optim__unit_gradients": True,
    "train__checkpoint_every": 1,
    "train__keep": 9,
    "track__uri": "none",
}
KEPT = ("snapshots/1", "snapshots/2", "bundle")


def weights_of(folder):
    return (pathlib.Path(folder) / bundle.WEIGHTS).read_bytes()


def test_averaged_weights_validate_are_kept_and_predict(tiles):
    course = train(tiles=tiles, **AVERAGED)
    template, _ = step.create(settings(**AVERAGED), 6, mesh.make())
    saved = checkpoint.Checkpoints("work/checkpoints")
    states = {at: saved.restore(template, at)[1] for at in saved.steps()}
    assert list(states) == [1, 2, 3, 4, 5, 6]

    def flat(part):
        return {
            "/".join(map(str, path)): np.asarray(value[...])
            for path, value in nnx.to_flat_state(part)
        }

    first, last, best = (bundle.load(PATH / name).weights for name in KEPT)
    for name, value in flat(states[3]["params"]).items():
        np.testing.assert_array_equal(first[name], value)
    for name, own in flat(states[6]["params"]).items():
        mean = np.mean([flat(states[t]["params"])[name] for t in (4, 5, 6)], 0)
        np.testing.assert_allclose(best[name], mean, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(last[name], own)
    for name, running in flat(states[6]["stats"]).items():
        assert np.abs(best[name] - running).max() > 1e-3
        np.testing.assert_array_equal(last[name], running)
    found = bundle.load(PATH / "bundle").meta
    assert found["step"] == course.best_step == 6 and course.averaged
    predictor, data = seg.load(PATH), drawn()
    scores = report.evaluate(
        lambda record: predictor(record["image"]),
        (data.read("val", i) for i in range(2)),
        settings().classes,
        "val",
        intervals=False,
    ).metrics
    assert scores["val/dice"] == pytest.approx(course.best, abs=1e-6)
    # the snapshots together are a model too
    assert len(seg.load(PATH / "snapshots").bundles) == 2


def test_killed_while_it_writes_a_snapshot_it_writes_the_same(
    tiles, monkeypatch
):
    train("whole", tiles=tiles, **AVERAGED)
    save = bundle.save

    def killed(made, folder, **kwargs):
        if folder == PATH.joinpath(name):
            folder.parent.mkdir(exist_ok=True)
            raise KeyboardInterrupt
        return save(made, folder, **kwargs)

    for name in KEPT[:2]:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(run.bundle, "save", killed)
            train(tiles=tiles, **AVERAGED)
        assert not (PATH / name).exists()
    assert train(tiles=tiles, **AVERAGED).done
    for name in KEPT:
        assert weights_of(PATH / name) == weights_of(f"whole/{name}")


def test_snapshots_of_another_course_do_not_stay(tiles):
    cycles = {k: v for k, v in AVERAGED.items() if k != "optim__swa"}
    train(tiles=tiles, **cycles | {"optim__cycles": 3})
    assert len(seg.load(PATH / "snapshots").bundles) == 3
    (PATH / "snapshots/3" / bundle.MODEL).write_text("damaged")
    longer = {"train__resume_changed": True, "train__epochs": 4}
    train(tiles=tiles, **cycles | longer)
    kept = {
        folder.name: bundle.load(folder).meta["step"]
        for folder in (PATH / "snapshots").iterdir()
    }
    assert kept == {"1": 6, "2": 12}


# ------------------------------------------------------ an encoder from a file
class Encoder(nnx.Module):
    """One convolution, as if it were of keras.applications."""

    url = "nowhere"

    def __init__(self, rngs):
        self.conv = blocks.conv(1, 2, 3, rngs, dtype=np.float32)

    def keras_layers(self):
        return {"conv": [self.conv.kernel, self.conv.bias]}


class Encoding(nnx.Module):
    """A network with an encoder that a file fills."""

    def __init__(self, knobs, rngs):
        self.stride = 1
        self.encoder = Encoder(rngs)
        self.head = blocks.conv(2, 1, 1, rngs, dtype=np.float32)

    def __call__(self, image, rngs=None):
        return {"classes": self.head(self.encoder.conv(image))}


@pytest.fixture
def encoding(monkeypatch):
    """The network among the architectures, and a file for its encoder."""
    h5py = pytest.importorskip("h5py")
    monkeypatch.setitem(models.MODELS, "encoding", Encoding)
    path = pathlib.Path("numbers.h5").absolute()
    with h5py.File(path, "w") as file:  # Keras' legacy format
        file.attrs["layer_names"] = ["conv"]
        layer = file.create_group("conv")
        layer.attrs["weight_names"] = ["kernel", "bias"]
        layer["kernel"] = np.full((3, 3, 1, 2), 0.25, np.float32)
        layer["bias"] = np.zeros(2, np.float32)
    return {
        "model__name": "encoding",
        "model__norm": None,
        "model__encoder": str(path),
        "optim__rates": ("encoder=0",),
    }


def test_an_encoder_starts_from_its_file_and_the_run_says_which(
    encoding, tiles, caplog
):
    caplog.set_level(logging.INFO, "seg")
    path = pathlib.Path(encoding["model__encoder"])
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert train(tiles=tiles, **encoding).done
    kept = bundle.load(PATH / "bundle")
    np.testing.assert_array_equal(kept.weights["encoder/conv/kernel"], 0.25)
    assert kept.meta["encoder_sha256"] == sha256
    assert (PATH / "encoder_sha256").read_text() == f"{sha256}\n"
    assert f"numbers.h5, sha256 {sha256}" in (PATH / "log.txt").read_text()
    (spool,) = pathlib.Path("spool?token=hunter2").glob("*/spool.jsonl")
    told = json.loads(spool.read_text().splitlines()[0])
    assert told["tags"]["encoder_sha256"] == sha256
    # neither prediction nor a resumed training needs the file
    path.unlink()
    assert seg.load(PATH)(np.ones((40, 40), np.uint8)).labels.shape == (40, 40)
    longer = {"train__resume_changed": True, "train__epochs": 3}
    assert train(tiles=tiles, **encoding, **longer).done
    kept = bundle.load(PATH / "bundle")
    np.testing.assert_array_equal(kept.weights["encoder/conv/kernel"], 0.25)
    assert kept.meta["encoder_sha256"] == sha256
    # but one that has nothing else to start from
    for folder in (PATH / "checkpoints").iterdir():
        (folder / "manifest.json").write_text("damaged")
    longer["train__epochs"] = 4
    refused("numbers.h5 is no file", tiles=tiles, **encoding, **longer)


def test_an_encoder_without_a_file_is_told(encoding, tiles, caplog):
    caplog.set_level(logging.INFO, "seg")
    encoding |= {"model__encoder": "", "optim__rates": ()}
    assert train(tiles=tiles, **encoding, track__uri="none").done
    told = (PATH / "log.txt").read_text()
    assert "encoding: its encoder trains from scratch" in told
    assert "encoder_sha256" not in bundle.load(PATH / "bundle").meta


def test_weights_of_chance_are_not_frozen(encoding, tiles):
    encoding |= {"model__encoder": "", "optim__rates": ("encoder=0",)}
    refused("weights of chance; give --model.encoder", tiles=tiles, **encoding)


def test_a_file_for_an_encoder_that_is_not_there_is_refused(encoding, tiles):
    encoding |= {"model__name": "unet", "optim__rates": ()}
    refused("this network has no encoder", tiles=tiles, **encoding)
    assert not (PATH / "config.json").exists()


@pytest.mark.slow
# Keras 3 on numpy 2
@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_mobilenets_weights_stay_as_keras_saved_them(tiles):
    import keras

    from seg.models import pretrained

    base = keras.applications.MobileNetV2(
        weights=None, include_top=False, input_shape=(32, 32, 3)
    )
    base.save_weights("mobile.weights.h5")
    encoding = {
        "model__name": "mobilenet_unet",
        "model__norm": None,
        "model__depth": None,
        "model__encoder": str(pathlib.Path("mobile.weights.h5").absolute()),
        "optim__rates": ("encoder=0",),
        "train__steps": 2,
        "track__uri": "none",
    }
    assert train(tiles=tiles, **encoding).done
    network = bundle.model(bundle.load(PATH / "bundle"))
    kept = network.encoder
    before = [v.copy() for vs in kept.keras_layers().values() for v in vs]
    pretrained.load(network, "mobile.weights.h5")
    after = [v for vs in kept.keras_layers().values() for v in vs]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a[...], b[...])


def test_what_was_measured_of_the_data_is_no_other_config(tiles):
    knobs = {"model__objects": "distance", "train__steps": 2}
    train(tiles=tiles, **knobs)
    kept = config.from_json((PATH / "config.json").read_text())
    assert 2 < kept.data.diameter < 48
    assert bundle.load(PATH / "bundle").config.data.diameter == (
        kept.data.diameter
    )
    (PATH / "done").unlink()  # stopped after the last step
    train(tiles=tiles, **knobs)
    assert (PATH / "done").exists()
    refused("data.diameter", tiles=tiles, **knobs, data__diameter=33.0)
