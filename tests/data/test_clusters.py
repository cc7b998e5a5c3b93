"""The split by likeness: seeded, whatever the order, no group separated."""

import collections
import io
import zipfile

import numpy as np
import pytest
from PIL import Image
from scipy.cluster import vq

from seg import config as config_lib
from seg.data import clusters, dataset, layouts, split


def blobs(n=8, each=30, seed=0):
    """Rows around n far middles, and which."""
    rng = np.random.default_rng(seed)
    middles = rng.permutation(np.arange(n))[:, None] * np.ones(6)
    which = np.repeat(np.arange(n), each)
    return middles[which] + rng.normal(0, 0.02, (len(which), 6)), which


def test_features_are_the_six_numbers_of_the_source():
    image = np.array([[0, 51], [102, 255]], np.uint8)[..., None]
    wide = np.tile(image, (64, 128, 1))
    expected = [0, 1, (image / 255).std(), (image / 255).mean(), 0.25, 0.125]
    np.testing.assert_allclose(clusters.features(wide), expected)
    # the same in 16 bits and in grey of three channels
    for same in (wide.astype(np.uint16) * 257, np.repeat(wide, 3, axis=-1)):
        np.testing.assert_allclose(clusters.features(same), expected)


@pytest.mark.parametrize("seed", range(4))
def test_clusters_that_are_there_are_found(seed):
    table, which = blobs(seed=seed)
    found = clusters.cluster(table, 8, seed)
    assert len({(a, b) for a, b in zip(found, which, strict=True)}) == 8
    order = np.array([table[found == k].mean() for k in range(8)])
    assert (np.diff(order) > 0).all()  # numbered by their middles


def test_k_means_is_as_tight_as_that_of_scipy():
    table = np.random.default_rng(1).random((200, 6))

    def inertia(of):
        middles = np.stack([table[of == k].mean(0) for k in np.unique(of)])
        return vq.vq(table, middles)[1] @ vq.vq(table, middles)[1]

    ours = inertia(clusters.cluster(table, 8, 0))
    theirs = [
        inertia(vq.kmeans2(table, 8, minit="++", iter=100, seed=seed)[1])
        for seed in range(10)
    ]
    assert ours <= min(theirs) * 1.02


@pytest.mark.parametrize("n", [0, 1, 3, 20])
def test_few_or_equal_images_make_fewer_clusters(n):
    table = np.repeat(np.arange(min(n, 3))[:, None] * np.ones(6), 7, axis=0)
    found = clusters.cluster(table, 8, 0)
    assert len(np.unique(found)) == min(n, 3)
    assert clusters.strata({}, {}, 0) == {}


def test_a_group_is_of_the_cluster_of_most_of_its_images():
    table, which = blobs(each=9)
    features = {f"{i:03d}": row for i, row in enumerate(table)}
    groups = {name: f"g{i // 3}" for i, name in enumerate(features)}
    one = which[:3].tolist() == [which[0]] * 3
    groups["002"] = "g23"  # a stranger among three of another cluster
    found = clusters.strata(features, groups, 0)
    assert one and found["g23"] == found["g22"] != found["g0"]
    assert len(set(found.values())) == 8


def test_floats_of_any_unit_are_brought_to_one():
    rng = np.random.default_rng(0)
    images = {str(i): rng.random((8, 8 + i, 1)) for i in range(12)}
    found = [
        clusters.strata(
            {k: clusters.features(v * unit) for k, v in images.items()},
            {k: k for k in images},
            0,
        )
        for unit in (1e3, 1e7)
    ]
    assert found[0] == found[1]


def files(n_kinds=4, n_each=20):
    """Images of four brightnesses and sizes; pairs of equal files."""
    rng = np.random.default_rng(0)
    content = {}
    for kind in range(n_kinds):
        for i in range(n_each):
            if i % 5 != 4:  # every fifth is a copy of the one before
                image = rng.integers(0, 20 + 60 * kind, (24, 20 + 4 * kind))
            for folder, array in (("images", image), ("masks", image > 9)):
                file = io.BytesIO()
                Image.fromarray(array.astype(np.uint8)).save(file, "PNG")
                content[f"{folder}/k{kind}_{i:02d}.png"] = file.getvalue()
    return content


def put(content, path, order):
    names = list(content)
    np.random.default_rng(order).shuffle(names)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, content[name])


def of(path, **changes):
    knobs = {"data.layout": "folders", "data.path": str(path)}
    knobs |= {"data.split": "clusters", "data.val_frac": 0.1}
    knobs |= {"data.test_frac": 0.1, "data.dir": str(path.parent / "data")}
    changes = {key.replace("__", "."): v for key, v in changes.items()}
    return config_lib.replace(config_lib.Config(), knobs | changes)


def assigned(config):
    samples = layouts.scan(config)
    strata = {s.group: s.stratum for s in samples}
    data = config.data
    found = split.assign(
        samples, data.val_frac, data.test_frac, data.split_seed, strata=strata
    )
    split.check_leaks(samples, found)
    return samples, found


def test_each_cluster_is_split_in_the_same_shares(tmp_path):
    put(files(), tmp_path / "a.zip", 0)
    samples, found = assigned(of(tmp_path / "a.zip"))
    assert len({s.group for s in samples}) < len(samples) == 80  # copies
    by_stratum = collections.defaultdict(collections.Counter)
    for sample in samples:
        by_stratum[sample.stratum][found[sample.id]] += 1
    assert 4 <= len(by_stratum) <= clusters.N
    for counts in by_stratum.values():
        n = counts.total()
        for name, share in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
            assert abs(counts[name] - share * n) <= 2


def test_the_split_by_clusters_does_not_depend_on_the_order_of_files(tmp_path):
    content = files(n_each=10)
    found = []
    for order in range(3):
        put(content, tmp_path / f"{order}.zip", order)
        found.append(assigned(of(tmp_path / f"{order}.zip"))[1])
    assert found[0] == found[1] == found[2]
    other = assigned(of(tmp_path / "0.zip", data__split_seed=1))[1]
    assert other != found[0]


def test_what_is_published_is_split_anew(tmp_path):
    content = {}
    for name, bytes_ in files(n_each=6).items():
        part = "test" if name.endswith("5.png") else "train"
        content[f"{part}/{name}"] = bytes_
    put(content, tmp_path / "a.zip", 0)
    assert {s.split for s in layouts.scan(of(tmp_path / "a.zip"))} == {""}
    records = dataset.prepare(of(tmp_path / "a.zip"), progress=False)
    parts = {k: {name[:2] for name in v} for k, v in records.splits.items()}
    assert parts["train"] == {"k0", "k1", "k2", "k3"} and parts["test"]
    assert "test/" not in str(records.splits)


def test_drawn_images_and_colour_are_clustered_too():
    drawn = config_lib.replace(
        config_lib.Config(),
        {
            "data.split": "clusters",
            "synthetic.height": 24,
            "synthetic.width": 24,
            "synthetic.n_objects": 2,
        },
    )
    samples, found = assigned(drawn)
    assert {s.split for s in samples} == {""}
    assert set(found.values()) == {"train", "val", "test"}
    assert len({s.stratum for s in samples}) == clusters.N
