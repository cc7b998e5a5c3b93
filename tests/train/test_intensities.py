"""A training whose scaling needs the training images, and resized ones."""

import json
import pathlib

import numpy as np
import pytest

from seg import config, normalize
from seg.data import records, synthetic
from seg.predict import bundle, predictor
from seg.train import run, workdirs

KNOBS = {
    "model.width": 4, "model.depth": 1, "model.norm": "batch",
    "data.normalize": "invert + global + minmax + gamma",
    "data.resize": 32, "data.tile": 32, "synthetic.height": 48,
    "synthetic.width": 40, "synthetic.n_objects": 4,
    "synthetic.diameter": 12.0, "train.batch_size": 2, "train.steps": 2,
    "predict.tile": 32, "track.uri": "none",
}  # fmt: skip


@pytest.fixture
def pack(tmp_path):
    settings = config.replace(config.Config(), KNOBS)

    def read(split, i):
        record = synthetic.draw(settings.synthetic, i)
        stats = normalize.measure(record["image"])
        about = {"id": f"{split}{i}", "group": "", "stats": stats}
        return record | about

    index = {
        split: [
            {"id": f"{split}{i}", "group": "", "shape": [48, 40]}
            for i in range(n)
        ]
        for split, n in (("train", 3), ("val", 1))
    }
    made = records.Records(index, "d", read, 64, settings)
    records.pack(made, settings, tmp_path / "pack.npz")
    return str(tmp_path / "pack.npz"), made


def test_a_run_keeps_what_its_scaling_took_from_the_images(pack, tmp_path):
    path, made = pack
    workdir = tmp_path / "work"
    workdir.mkdir()
    settings = config.check(config.replace(config.Config(), KNOBS))
    run.train(settings, workdir, tiles=path)
    pixels = np.concatenate([made.get("train", i)["image"] for i in range(3)])
    kept = config.from_json((workdir / "config.json").read_text())
    np.testing.assert_allclose(kept.data.mean, pixels.mean(), rtol=1e-5)
    np.testing.assert_allclose(kept.data.std, pixels.std(), rtol=1e-5)
    # the same command again, and what it was with its numbers written out
    workdirs.check_same(settings, workdir)
    workdirs.check_same(kept, workdir)
    other = config.replace(kept, {"data.mean": [7.0]})
    with pytest.raises(config.UserError, match=r"data\.mean: "):
        workdirs.check_same(other, workdir)
    again = run.train(settings, workdir, tiles=path)
    assert again.best is not None
    trained = bundle.load(workdir / "bundle")
    assert trained.config.data.mean == kept.data.mean
    model = json.loads(pathlib.Path(workdir / "bundle/model.json").read_text())
    assert model["normalize"] == KNOBS["data.normalize"]
    image = made.get("val", 0)["image"]
    found = predictor.Predictor(trained, engine="jax")(image)
    assert found.classes.shape == image.shape[:2] == (48, 40)
