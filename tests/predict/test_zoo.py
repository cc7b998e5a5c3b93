"""The models that come along: small, whole, described, and they work."""

import pathlib
import shutil

import numpy as np
import pytest

import seg
from seg import config
from seg.evaluate import matching
from seg.images import read
from seg.predict import bundle

NAMES = sorted(path.parent.name for path in seg.ZOO.glob("*/model.json"))
PICTURES = pathlib.Path(seg.__file__).parents[1] / "experiments/pictures"


def test_the_default_is_there_and_all_are_small():
    assert "nuclei" in NAMES
    files = [path for path in seg.ZOO.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25e6


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_half_precision_and_has_a_card(name):
    found = bundle.load(seg.ZOO / name)
    assert found.meta["licence"] in ("CC0-1.0", "MIT")
    text = (seg.ZOO / name / bundle.MODEL).read_text()
    assert '"/' not in text  # no path of the machine that made it
    n = sum(array.size for array in found.weights.values())
    stored = (seg.ZOO / name / "weights.safetensors").stat().st_size
    assert stored < 2.3 * n
    card = (seg.ZOO / name / "README.md").read_text()
    for word in ("licence", "python -m launch.train", "AP@0.5", "minutes"):
        assert word in card.lower() or word in card


def test_a_damaged_one_is_refused(tmp_path):
    folder = shutil.copytree(seg.ZOO / "nuclei", tmp_path / "nuclei")
    weights = folder / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(config.UserError, match="sha256"):
        seg.load(folder)


def test_the_default_finds_the_nuclei_of_the_picture():
    image = read.read_image(PICTURES / "nuclei.png")
    found = seg.load(engine="jax")(image)
    truth = read.read_mask(PICTURES / "nuclei_truth.png")
    matched = matching.match(truth.astype(np.int32), found.labels)
    assert matched.n_true == 20
    # it sees one pair that touches as one object
    assert matched.tp[0] >= 18 and matched.n_found - matched.tp[0] <= 1
    both = ((found.labels > 0) & (truth > 0)).sum()
    assert 2 * both / ((found.labels > 0).sum() + (truth > 0).sum()) > 0.9


def test_cells_finds_the_neuron_of_the_picture():
    """Of the validation, bright field, CC0."""
    image = read.read_image(PICTURES / "neuron.png")
    truth = read.read_mask(PICTURES / "neuron_truth.png").astype(np.int32)
    predictor = seg.load("cells", engine="jax")
    found = predictor(image)
    assert {row["class"] for row in found.table} == {"cell"}
    matched = matching.match(truth, found.labels)
    assert matched.n_true == matched.tp[0] == 1
    assert matched.n_found <= 2
    # eight times as large, as the microscope gave it: its size must be told
    large = np.kron(image, np.ones((8, 8, 1), image.dtype))
    found = seg.load("cells", engine="jax", diameter=320)(large)
    truth = np.kron(truth, np.ones((8, 8), truth.dtype))
    assert matching.match(truth, found.labels).tp[0] == 1
