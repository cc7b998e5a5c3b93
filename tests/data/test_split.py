import collections
import dataclasses
import pathlib

import numpy as np
import pytest

from seg import config
from seg.data import split

DATA = pathlib.Path(__file__).parents[3] / "shared" / "data"


@dataclasses.dataclass(frozen=True)
class Member:
    id: str
    group: str
    split: str = ""


def members(n_groups=60, n_strata=4, seed=0):
    """Groups of 1 to 6 images in strata."""
    rng = np.random.default_rng(seed)
    return [
        Member(f"{g}-{i}", f"stratum{g % n_strata}/{g}")
        for g in range(n_groups)
        for i in range(rng.integers(1, 7))
    ]


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_separated_and_every_image_is_somewhere(seed):
    samples = members(seed=seed)
    assigned = split.assign(samples, 0.2, 0.1, seed)
    assert list(assigned) == [sample.id for sample in samples]
    split.check_leaks(samples, assigned)


@pytest.mark.parametrize("seed", range(5))
def test_the_shares_are_met_within_a_group_also_in_each_stratum(seed):
    samples = members(n_groups=200, seed=seed)
    assigned = split.assign(samples, 0.2, 0.1, seed)
    for stratum in (None, "stratum0", "stratum3"):
        part = [s for s in samples if s.group.startswith(stratum or "")]
        counts = collections.Counter(assigned[s.id] for s in part)
        for name, share in (("train", 0.7), ("val", 0.2), ("test", 0.1)):
            assert abs(counts[name] - share * len(part)) <= 6 + 6 * (
                stratum is not None
            )


def test_the_split_is_a_function_of_the_seed_and_not_of_the_order():
    samples = members()
    one = split.assign(samples, 0.2, 0.1, 1)
    assert one == split.assign(samples[::-1], 0.2, 0.1, 1)
    assert one != split.assign(samples, 0.2, 0.1, 2)


@pytest.mark.parametrize("n_folds", [2, 5])
def test_every_image_validates_in_one_fold_and_the_test_stays(n_folds):
    samples = members(n_groups=90)
    assigned = split.assign(samples, 0.1, 0.2, 3)
    folds = [
        split.fold(samples, assigned, n_folds, which, 3)
        for which in range(n_folds)
    ]
    pool = {name for name, part in assigned.items() if part != "test"}
    seen = collections.Counter()
    for found in folds:
        split.check_leaks(samples, found)
        assert {n for n in found if found[n] == "test"} == found.keys() - pool
        seen.update(name for name in pool if found[name] == "val")
    assert seen == dict.fromkeys(pool, 1)
    sizes = [sum(f[name] == "val" for name in pool) for f in folds]
    assert max(sizes) - min(sizes) <= 6  # the largest group
    for stratum in ("stratum0/", "stratum3/"):
        own = [s.id for s in samples if s.group.startswith(stratum)]
        own = [name for name in own if name in pool]
        share = [sum(f[name] == "val" for name in own) for f in folds]
        assert max(share) - min(share) <= 12
    # whatever the order of the files
    again = split.fold(samples[::-1], assigned, n_folds, 1, 3)
    assert again == folds[1]


def test_more_folds_than_groups_are_refused():
    samples = [Member(str(i), str(i)) for i in range(4)]
    assigned = dict.fromkeys("0123", "train")
    assert split.fold(samples, assigned, 4, 3, 0)
    with pytest.raises(config.UserError, match="cannot fill"):
        split.fold(samples, assigned, 5, 0, 0)


def test_no_share_is_no_split():
    assigned = split.assign(members(), 0.2, 0.0, 0)
    assert set(assigned.values()) == {"train", "val"}
    assert set(split.assign(members(), 0, 0, 0).values()) == {"train"}


@pytest.mark.parametrize("n", [3, 4, 5, 8, 30])
def test_every_split_gets_something(n):
    samples = [Member(str(i), str(i)) for i in range(n)]
    for seed in range(5):
        assigned = split.assign(samples, 0.1, 0.01, seed)
        assert set(assigned.values()) == set(split.SPLITS)


def test_groups_of_very_different_sizes_fill_all_splits():
    samples = [Member(f"a{i}", "a") for i in range(50)]
    samples += [Member("b", "b"), Member("c", "c")]
    assigned = split.assign(samples, 0.3, 0.3, 0)
    assert set(assigned.values()) == set(split.SPLITS)
    split.check_leaks(samples, assigned)


def test_too_few_groups_are_an_error_with_a_remedy():
    samples = [Member(str(i), "one") for i in range(9)]
    with pytest.raises(config.UserError, match=r"1 groups .* data\.val_frac"):
        split.assign(samples, 0.2, 0.2, 0)


def test_what_is_published_stays():
    samples = [Member(str(i), str(i), "train" if i < 8 else "val")
               for i in range(10)]  # fmt: skip
    assigned = split.assign(samples, 0.5, 0.5, 0)
    assert assigned == {s.id: s.split for s in samples}


def test_a_missing_validation_is_taken_from_the_training():
    samples = [Member(str(i), str(i // 2), "train") for i in range(80)]
    samples += [Member(f"t{i}", f"t{i}", "test") for i in range(20)]
    assigned = split.assign(samples, 0.2, 0.5, 0)
    counts = collections.Counter(assigned.values())
    assert counts["test"] == 20 and abs(counts["val"] - 20) <= 2
    split.check_leaks(samples, assigned)


def test_a_training_folder_alone_is_split_like_any_other():
    samples = [Member(str(i), str(i), "train") for i in range(20)]
    assigned = split.assign(samples, 0.2, 0.2, 0)
    assert set(assigned.values()) == set(split.SPLITS)


def test_leaks_are_found():
    samples = [Member("a", "g"), Member("b", "g"), Member("c", "h")]
    with pytest.raises(config.UserError, match=r"a in train and b in test"):
        split.check_leaks(samples, {"a": "train", "b": "test", "c": "val"})
    twice = [Member("a", "g"), Member("a", "h")]
    with pytest.raises(config.UserError, match="two images have the id a"):
        split.check_leaks(twice, {"a": "train"})
    split.check_leaks(samples, dict.fromkeys("abc", "train"))


def test_the_rule_of_stardist_is_a_permutation_of_numpy():
    names = [f"{i:03d}" for i in range(447)]
    found = split.stardist_split(names[::-1])
    order = np.random.RandomState(42).permutation(447)
    validate = {names[i] for i in order[-67:]}
    assert {k for k, v in found.items() if v == "val"} == validate


@pytest.mark.data
def test_the_rule_of_stardist_gives_the_lists_of_stardist():
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is missing")

    def names(of):
        return (DATA / f"dsb2018_stardist_{of}.txt").read_text().split()

    found = split.stardist_split(names("train_447"))
    train = [name for name in sorted(found) if found[name] == "train"]
    assert train == sorted(names("trn_380_seed42"))
    assert sorted(set(found) - set(train)) == sorted(names("val_67_seed42"))
