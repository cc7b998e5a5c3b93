"""Claims about bundles: whole, checked, the same model back."""

import dataclasses
import json
import os
import pathlib
import pickletools
import subprocess
import sys
import threading

import numpy as np
import pytest
from flax import nnx

from seg import config
from seg.predict import bundle


def same_weights(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_what_is_saved_is_loaded(tiny, tmp_path):
    model = dataclasses.replace(
        tiny, meta={"metrics": {"val/dice": np.float32(0.5)}, "licence": "MIT"}
    )
    found = bundle.load(bundle.save(model, tmp_path / "a" / "model"))
    assert found.config == tiny.config
    assert found.meta == {"metrics": {"val/dice": 0.5}, "licence": "MIT"}
    same_weights(found.weights, tiny.weights)
    assert bundle.digest(found) == bundle.digest(tiny)


def test_model_json_says_what_other_readers_need(tiny, tmp_path):
    folder = bundle.save(tiny, tmp_path / "model")
    tree = json.loads((folder / "model.json").read_text())
    assert tree["format"] == 1
    assert tree["classes"] == ["background", "nucleus"]
    assert tree["normalize"] == "percentile"
    assert tree["predict"]["threshold"] == 0.5
    assert tree["files"].keys() == {"weights.safetensors"}


def test_the_network_comes_back(tiny):
    network = bundle.model(tiny)
    same_weights(bundle.from_model(tiny.config, network).weights, tiny.weights)
    state = nnx.state(network)  # as a training loop holds it
    same_weights(bundle.from_model(tiny.config, state).weights, tiny.weights)
    assert network.stride == 4


def test_randomness_of_a_network_is_no_weight(tiny):
    network = bundle.model(tiny)
    network.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    same_weights(bundle.from_model(tiny.config, network).weights, tiny.weights)


def test_half_precision_halves_the_file_and_keeps_statistics(tiny, tmp_path):
    huge = {**tiny.weights, "down/0/conv2/kernel": np.full((3, 3, 4, 4), 1e5)}
    huge = {name: array.astype(np.float32) for name, array in huge.items()}
    model = dataclasses.replace(tiny, weights=huge)
    full = bundle.save(model, tmp_path / "full")
    half = bundle.save(model, tmp_path / "half", half=True)
    sizes = [(f / bundle.WEIGHTS).stat().st_size for f in (half, full)]
    assert sizes[0] < 0.75 * sizes[1]
    found = bundle.load(half).weights
    for name, array in huge.items():
        assert found[name].dtype == np.float32
        exact = array.ndim < 2 or np.abs(array).max() > 65504
        np.testing.assert_allclose(
            found[name], array, rtol=0 if exact else 1e-3, atol=1e-6
        )


def test_another_architecture_lists_the_leaves_that_differ(tiny):
    wide = config.replace(tiny.config, {"model.width": 8, "model.depth": 1})
    with pytest.raises(config.UserError) as caught:
        bundle.model(dataclasses.replace(tiny, config=wide))
    message = str(caught.value)
    assert "down/0/conv1/kernel (3, 3, 1, 4) instead of (3, 3, 1, 8)" in message
    assert "more" in message
    assert "\n" not in message


def test_missing_and_unknown_weights_are_named(tiny):
    weights = dict(tiny.weights)
    weights["extra"] = weights.pop("head/bias")
    with pytest.raises(config.UserError) as caught:
        bundle.model(dataclasses.replace(tiny, weights=weights))
    assert "extra (1,) instead of nothing" in str(caught.value)
    assert "head/bias missing instead of (1,)" in str(caught.value)


def test_every_flipped_byte_is_found(tiny, tmp_path):
    folder = bundle.save(tiny, tmp_path / "model")
    for name in ("model.json", "weights.safetensors"):
        path = folder / name
        content = path.read_bytes()
        for at in np.linspace(0, len(content) - 2, 40).astype(int):
            broken = bytearray(content)
            broken[at] ^= 1
            path.write_bytes(broken)
            try:
                found = bundle.load(folder)
            except config.UserError as error:
                assert str(folder) in str(error)
            else:  # white space of the JSON text, at most
                assert name == "model.json"
                same_weights(found.weights, tiny.weights)
                assert found.config == tiny.config
        path.write_bytes(content)
    bundle.load(folder)


def edit(folder, **changes):
    path = folder / "model.json"
    tree = json.loads(path.read_text()) | changes
    tree["sha256"] = bundle._seal(tree)
    path.write_text(json.dumps(tree))


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: (f / "model.json").unlink(), "is no bundle"),
        (lambda f: (f / "model.json").write_text("{"), "damaged"),
        (lambda f: (f / "model.json").write_text("[1]"), "damaged"),
        (lambda f: (f / "model.json").write_text("{}"), "damaged"),
        (lambda f: edit(f, format=2), "bundle format 2"),
        (lambda f: edit(f, files={}), "damaged"),
        (lambda f: edit(f, files={"../a": "", bundle.WEIGHTS: ""}), "missing"),
        (lambda f: edit(f, config={"model": {"wdth": 3}}), "model.wdth"),
        (
            lambda f: (f / bundle.WEIGHTS).unlink(),
            "weights.safetensors is miss",
        ),
        (lambda f: (f / bundle.WEIGHTS).write_bytes(b""), "sha256 differs"),
    ],
)
def test_a_broken_bundle_is_refused_in_one_line(
    tiny, tmp_path, damage, message
):
    folder = bundle.save(tiny, tmp_path / "model")
    damage(folder)
    with pytest.raises(config.UserError, match=message) as caught:
        bundle.load(folder)
    assert "\n" not in str(caught.value)


def test_a_bundle_replaces_a_bundle_and_nothing_else(
    tiny, make_bundle, tmp_path
):
    folder = bundle.save(tiny, tmp_path / "model")
    other = make_bundle(seed=1)
    bundle.save(other, folder)
    same_weights(bundle.load(folder).weights, other.weights)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "chapter1").write_text("dear to me")
    with pytest.raises(config.UserError, match="no bundle"):
        bundle.save(tiny, mine)
    assert (mine / "chapter1").read_text() == "dear to me"


def test_a_place_that_cannot_be_written_is_a_user_error(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(config.UserError, match="cannot write the model"):
        bundle.save(tiny, tmp_path / "file" / "model")


FILL = """
import pathlib, resource, signal, sys
from seg import config
from seg.predict import bundle
model = bundle.load(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    bundle.save(model, sys.argv[1])
except config.UserError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_old_bundle(tiny, tmp_path):
    folder = bundle.save(tiny, tmp_path / "model")
    run = subprocess.run(
        [sys.executable, "-c", FILL, folder], capture_output=True, text=True
    )
    assert "cannot write the model" in run.stdout, run.stderr
    same_weights(bundle.load(folder).weights, tiny.weights)
    assert os.listdir(tmp_path) == ["model"]


def test_files_are_added_and_checked_as_the_others(tiny, tmp_path):
    folder = bundle.save(tiny, tmp_path / "model")
    bundle.add_files(folder, tiny, {"program.stablehlo": b"abc"})
    same_weights(bundle.load(folder).weights, tiny.weights)
    (folder / "program.stablehlo").write_bytes(b"abd")
    with pytest.raises(
        config.UserError, match=r"program\.stablehlo is damaged"
    ):
        bundle.load(folder)


def test_how_a_bundle_predicts_can_be_settled_later(tiny, tmp_path):
    folder = bundle.save(tiny, tmp_path / "tiny", half=True)
    bundle.add_files(folder, bundle.load(folder), {"model.onnx": b"abc"})
    before, weights = (
        bundle.load(folder),
        (folder / bundle.WEIGHTS).read_bytes(),
    )
    predict = dataclasses.replace(tiny.config.predict, threshold=0.3)
    bundle.settle(folder, before, predict, {"tuned": 7})
    after = bundle.load(folder)
    assert after.config.predict == predict
    assert after.meta == {**before.meta, "tuned": 7}
    assert (folder / bundle.WEIGHTS).read_bytes() == weights
    assert after.exports == before.exports
    assert bundle.digest(after) == bundle.digest(before)
    other = dataclasses.replace(
        tiny, weights={k: v + 1 for k, v in tiny.weights.items()}
    )
    with pytest.raises(config.UserError, match="another model"):
        bundle.settle(folder, other, predict, {})


def test_what_was_made_of_an_older_model_is_not_added(
    tiny, make_bundle, tmp_path
):
    folder = bundle.save(make_bundle(seed=1), tmp_path / "model")
    older = dataclasses.replace(tiny, exports={bundle.GRAPH: b"abc"})
    with pytest.raises(config.UserError, match="run it again"):
        bundle.add_files(folder, older, older.exports)
    assert not bundle.load(folder).exports


def test_processes_that_add_at_once_lose_nothing(tiny, tmp_path):
    folder = bundle.save(tiny, tmp_path / "model")
    names = [f"{i}.onnx" for i in range(8)]
    threads = [
        threading.Thread(
            target=bundle.add_files, args=(folder, tiny, {name: b"x"})
        )
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(bundle.load(folder).exports) == names


def test_no_file_is_a_pickle(tiny, tmp_path):
    folder = bundle.save(tiny, tmp_path / "model")
    for path in pathlib.Path(folder).iterdir():
        with pytest.raises(ValueError):
            list(pickletools.genops(path.read_bytes()))


def test_reading_a_bundle_loads_no_jax(tiny, tmp_path):
    folder = bundle.save(tiny, tmp_path / "model")
    program = (
        "import sys; from seg.predict import bundle; bundle.load(sys.argv[1]);"
        "sys.exit('jax' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, folder], check=True)


def test_the_digest_tells_models_apart(tiny, make_bundle):
    others = [
        make_bundle(seed=1),
        make_bundle(data__normalize="minmax"),
        make_bundle(model__dtype="bfloat16"),
    ]
    digests = {bundle.digest(model) for model in (tiny, *others)}
    assert len(digests) == 4
    moved = dataclasses.replace(tiny, meta={"licence": "other"})
    assert bundle.digest(moved) == bundle.digest(tiny)


def test_what_lies_beside_a_bundle_stays(tiny, make_bundle, tmp_path):
    folder = bundle.save(tiny, tmp_path / "m")
    (folder / "README.md").write_text("a card")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.png").write_bytes(b"png")
    (folder / "data").symlink_to(tmp_path)
    bundle.add_files(folder, tiny, {bundle.GRAPH: b"graph"})
    bundle.save(make_bundle(seed=1), folder)
    assert (folder / "README.md").read_text() == "a card"
    assert (folder / "pictures" / "a.png").read_bytes() == b"png"
    assert (folder / "data").is_symlink()
    assert not (folder / bundle.GRAPH).exists()  # of the older model


def test_an_export_that_is_gone_can_be_added_again(tmp_path, tiny):
    made = dataclasses.replace(
        tiny, exports={bundle.GRAPH: b"graph", bundle.PROGRAM: b"program"}
    )
    folder = bundle.save(tiny, tmp_path / "m")
    bundle.add_files(folder, tiny, made.exports)
    (folder / bundle.GRAPH).unlink()
    assert dict(bundle.load(folder).exports) == {bundle.PROGRAM: b"program"}
    bundle.add_files(folder, tiny, {bundle.GRAPH: b"graph"})
    assert bundle.load(folder).exports == made.exports
    (folder / bundle.WEIGHTS).unlink()
    with pytest.raises(config.UserError, match="missing"):
        bundle.load(folder)
