"""Every experiment file trains two real steps, on tiny images, and logs a run.

The networks are those of the files, but narrow; images, tiles and batches are
small.
"""

import pathlib

import mlflow
import numpy as np
import pytest
from array_record.python import array_record_data_source
from flax import nnx
from PIL import Image

from seg import config, flags, models
from seg.data import synthetic
from seg.models import pretrained
from seg.predict import bundle

assert array_record_data_source  # defines flags, which must outlive a command
FOLDER = pathlib.Path(__file__).parents[2] / "experiments"
FILES = sorted(FOLDER.glob("*.py"))
PUBLISHED = [path for path in FILES if "as_published" in path.read_text()]
SMALL = {
    "model.width": 4, "train.steps": 2, "train.batch_size": 2,
    "train.eval_every": 2, "train.log_every": 1, "train.monitor": "val/dice",
    "data.sha256": "", "data.exclude": "", "data.per_image": 0,
    "synthetic.height": 96, "synthetic.width": 96, "synthetic.diameter": 20,
    "synthetic.n_objects": 5, "synthetic.n_train": 3, "synthetic.n_val": 1,
    "synthetic.n_test": 1, "data.tile": 64, "predict.tile": 64,
    "track.n_overlays": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """The same few drawn nuclei in each layout that an experiment reads."""
    root = tmp_path_factory.mktemp("raw")
    spec = config.Synthetic(height=96, width=96, n_objects=5, diameter=20.0)
    for i in range(8):
        drawn = synthetic.draw(spec, i)
        image = (drawn["image"][..., 0] >> 8).astype(np.uint8)
        labels = drawn["labels"].astype(np.uint16)
        split = "test" if i == 0 else "train"
        files = {
            f"folders/images/{i}.png": image,
            f"folders/masks/{i}.png": labels,
            f"stardist/{split}/images/{i}.tif": image,
            f"stardist/{split}/masks/{i}.tif": labels,
            f"dsb2018/{i}/images/{i}.png": np.dstack([image] * 3),
        }
        for k in range(1, labels.max() + 1):
            mask = np.where(labels == k, 255, 0).astype(np.uint8)
            files[f"dsb2018/{i}/masks/{k}.png"] = mask
        for name, pixels in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / name)
    return root


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A file of weights as ImageNet's of MobileNetV2, but random."""
    import keras

    path = tmp_path_factory.mktemp("encoder") / "mobilenet.weights.h5"
    net = keras.applications.MobileNetV2(
        weights=None, include_top=False, input_shape=(None, None, 3)
    )
    net.save_weights(path)
    return path


def run(launch, raw, folder, experiment, encoder=""):
    """The metrics that a training of two steps has logged."""
    asked = flags.load_experiment(str(experiment))
    uri = f"sqlite:///{folder}/runs.db"
    values = {
        **SMALL,
        "data.dir": raw / "records",
        "track.uri": uri,
        "data.resize": 64 if asked.data.resize else 0,
    }
    if encoder:
        values["model.encoder"] = encoder
    else:  # without a file there is nothing to freeze
        values["optim.rates"] = ""
    if asked.data.layout != "synthetic":
        values["data.path"] = raw / asked.data.layout
    knobs = [f"--{path}={value}" for path, value in values.items()]
    knobs.append(f"--experiment={experiment}")
    status, _, err = launch("prepare", *knobs)
    assert status == 0, err
    status, _, err = launch("train", *knobs, f"--workdir={folder / 'run'}")
    assert status == 0, err
    assert (folder / "run" / "bundle" / "model.json").is_file()
    client = mlflow.MlflowClient(uri)
    named = client.get_experiment_by_name(asked.track.experiment)
    (logged,) = client.search_runs([named.experiment_id])
    assert logged.info.status == "FINISHED"
    assert logged.data.params["model.name"] == asked.model.name
    return logged.data.metrics


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_trains_and_logs_a_run(launch, raw, tmp_path, path):
    metrics = run(launch, raw, tmp_path, path)
    assert np.isfinite(metrics["train/loss"])
    assert 0 <= metrics["val/dice"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_so_does_what_was_published(launch, raw, tmp_path, path):
    metrics = run(launch, raw, tmp_path, f"{path}:as_published")
    assert np.isfinite(metrics["train/loss"])


# of Keras, when it draws weights
@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.slow
def test_the_tutorials_encoder_stays_as_its_file_has_it(
    launch, raw, tmp_path, encoder
):
    experiment = f"{FOLDER / 'tutorial_mobilenet.py'}:as_published"
    run(launch, raw, tmp_path, experiment, encoder)
    trained = bundle.load(tmp_path / "run" / "bundle")
    begun = models.build(trained.config.model, nnx.Rngs(0))
    pretrained.load(begun, encoder)
    start = bundle.from_model(trained.config, begun).weights
    same = {n: np.array_equal(v, trained.weights[n]) for n, v in start.items()}
    inside = [name for name in same if name.startswith("encoder/")]
    assert len(inside) > 100 and all(same[name] for name in inside)
    assert not all(same.values())
