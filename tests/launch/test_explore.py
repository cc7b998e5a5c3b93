"""`python -m launch.explore`: a table, pictures, and a run."""

import mlflow
import pytest

from seg.images import formats


def test_what_is_seen_is_written_and_recorded(prepared, launch, monkeypatch):
    monkeypatch.chdir(prepared)
    uri = f"sqlite:///{prepared / 'seen.db'}"
    arguments = "--experiment=tiny.py", f"--track.uri={uri}"
    status, out, err = launch("explore", *arguments)
    assert status == 0, err
    assert "8 images (4 train, 2 val, 2 test), 1 size of 48x48 px" in out
    folder = prepared / "runs" / "explore-tiny"
    assert len(formats.read_table(folder / "images.csv")) == 8
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs(
        [client.get_experiment_by_name("seg").experiment_id]
    )
    assert run.data.metrics["data/n_images"] == 8
    named = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"images.csv", "explore"} <= named


@pytest.mark.parametrize("tiles", ["tiles.npz"])
def test_a_pack_will_do(prepared, launch, monkeypatch, tmp_path, tiles):
    monkeypatch.chdir(prepared)
    status, out, err = launch(
        "explore", "--experiment=tiny.py", f"--tiles={tiles}",
        f"--workdir={tmp_path}", "--track.uri=none",
    )  # fmt: skip
    assert status == 0, err
    assert "8 images" in out
    assert (tmp_path / "explore" / "clusters.png").is_file()


@pytest.mark.parametrize("name", ["config.json", "sweep.json"])
def test_the_folder_of_a_training_or_a_sweep_is_refused(
    prepared, launch, monkeypatch, tmp_path, name
):
    monkeypatch.chdir(prepared)
    (tmp_path / name).write_text("{}")
    status, _, err = launch(
        "explore", "--experiment=tiny.py", f"--workdir={tmp_path}",
        f"--track.uri=sqlite:///{tmp_path}/none.db",
    )  # fmt: skip
    assert status == 2 and len(err.splitlines()) == 1
    assert "choose another" in err and str(tmp_path) in err
    assert {path.name for path in tmp_path.iterdir()} == {name}
