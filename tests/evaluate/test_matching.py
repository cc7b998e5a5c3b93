import pathlib

import numpy as np
import pytest

from seg.evaluate import matching

FIXTURE = pathlib.Path(__file__).parent / "fixtures" / "matching.npz"


@pytest.fixture(scope="module")
def recorded():
    """Label pairs and StarDist 0.9.2's results (see record_matching.py)."""
    with np.load(FIXTURE) as file:
        record = dict(file)
    sizes = record["sizes"].astype(int)
    ends = np.cumsum(sizes.prod(1))[:-1]
    flat = np.split(record["pixels"], ends, axis=1)
    pairs = [p.reshape(2, *size) for p, size in zip(flat, sizes, strict=True)]
    thresholds = tuple(record["thresholds"].tolist())
    matchings = [matching.match(*pair, thresholds) for pair in pairs]
    return record, pairs, matchings


def test_counts_equal_stardist(recorded):
    record, _, matchings = recorded
    assert len(matchings) == 1000
    for name in ("tp", "fp", "fn"):
        ours = np.array([getattr(m, name) for m in matchings])
        np.testing.assert_array_equal(ours, record[name], err_msg=name)


def test_scores_equal_stardist(recorded):
    record, _, matchings = recorded
    for ours, theirs in (
        ("ap", "accuracy"),
        ("f1", "f1"),
        ("pq", "panoptic_quality"),
        ("iou_sum", "iou_sum"),
    ):
        values = np.array([getattr(m, ours) for m in matchings])
        np.testing.assert_allclose(values, record[theirs], atol=2e-6)


def test_pooled_scores_equal_stardist(recorded):
    record, _, matchings = recorded
    pooled = matching.pooled(matchings)
    for name in ("tp", "fp", "fn"):
        np.testing.assert_array_equal(
            getattr(pooled, name), record[f"pooled_{name}"]
        )
    for ours, theirs in (
        ("ap", "accuracy"),
        ("f1", "f1"),
        ("pq", "panoptic_quality"),
    ):
        np.testing.assert_allclose(
            getattr(pooled, ours), record[f"pooled_{theirs}"], atol=1e-6
        )


def test_image_means_equal_stardist_where_there_is_something(recorded):
    record, pairs, _ = recorded
    found = np.array([p.any() for p in pairs])
    matchings = [matching.match(*pair) for pair in pairs if pair.any()]
    scores = matching.scores(matchings)
    at = np.isclose(record["thresholds"], 0.5).argmax()
    for ours, theirs in (
        ("ap50_image", "accuracy"),
        ("f1_image", "f1"),
        ("pq_image", "panoptic_quality"),
    ):
        mean = record[theirs][found][:, at].mean()
        assert scores[ours] == pytest.approx(mean, abs=1e-6)


def _true():
    labels = np.zeros((20, 20), np.int32)
    labels[2:8, 2:8] = 7
    labels[10:16, 2:8] = 3
    labels[2:8, 12:18] = 5
    return labels


def test_a_perfect_result_scores_one_whatever_the_ids():
    found = np.where(_true() > 0, 300 - _true(), 0).astype(np.uint16)
    result = matching.match(_true(), found)
    assert result.ap.tolist() == result.pq.tolist() == [1.0] * 10
    assert matching.pairs(_true(), found).tolist() == [
        [3, 297],
        [5, 295],
        [7, 293],
    ]


def test_two_objects_found_as_one_are_one_false_and_two_missed():
    found = np.zeros((20, 20), np.int32)
    found[2:16, 2:8] = 1
    result = matching.match(_true(), found, (0.5,))
    assert (result.tp[0], result.fp[0], result.fn[0]) == (0, 1, 3)


def test_as_many_pairs_as_possible_before_better_ones():
    # found 1 overlaps both true ones, 2 only the first: 1 goes to the second
    true = np.array([[1, 1, 1, 1, 2, 2, 2]])
    found = np.array([[2, 1, 1, 1, 1, 1, 0]])
    result = matching.match(true, found, (0.2,))
    assert result.tp[0] == 2
    assert result.iou_sum[0] == pytest.approx(1 / 4 + 2 / 6)
    pairs = matching.pairs(true, found, 0.2)
    assert pairs.tolist() == [[1, 2], [2, 1]]


def test_a_threshold_reached_by_steps_is_the_threshold():
    true = np.arange(20).reshape(1, -1) // 20 + 1
    found = np.where(np.arange(20) < 13, 1, 0).reshape(1, -1)
    steps = np.arange(0.5, 1, 0.05)[3]  # a bit above; the IoU is 0.65
    assert steps > 0.65
    assert matching.match(true, found, (steps,)).tp[0] == 1


def test_names_are_those_of_tracking():
    scores = matching.scores([matching.match(_true(), _true())] * 2)
    names = [f"ap{t}" for t in range(50, 100, 5)]
    names += ["ap_mean", "f1", "pq", "aji", "boundary_f"]
    expected = {*names, *(f"{n}_image" for n in names), "count_error"}
    assert set(scores) == expected
    assert scores.pop("count_error") == 0
    assert set(scores.values()) == {1.0}


def test_the_aggregated_index_is_kumars(recorded):
    _, pairs, matchings = recorded
    for (true, found), matching_ in zip(pairs, matchings, strict=True):
        common = total = 0
        alone = set(np.unique(found)) - {0}
        for i in set(np.unique(true)) - {0}:
            at = true == i
            best = max(
                set(np.unique(found[at])) - {0},
                key=lambda j, at=at: (
                    np.sum(at & (found == j)) / np.sum(at | (found == j)),
                    -int(j),
                ),
                default=0,
            )
            other = (found == best) & (best > 0)
            common += np.sum(at & other)
            total += np.sum(at | other)
            alone -= {best}
        total += sum(np.sum(found == j) for j in alone)
        assert matching_.jaccard.tolist() == [common, total]


def test_a_merger_costs_the_aggregated_index_what_lies_outside():
    merged = np.where(np.isin(_true(), (3, 7)), 1, _true())
    scores = matching.scores([matching.match(_true(), merged)])
    # both true ones take the merged one: (36 + 36 + 36) / (72 + 72 + 36)
    assert scores["aji"] == pytest.approx(108 / 180)


def test_ap_mean_is_over_fifty_to_ninety():
    true = np.ones((1, 100), int)
    found = np.where(np.arange(100) < 62, 1, 0).reshape(1, -1)
    scores = matching.scores([matching.match(true, found)])
    assert scores["ap60"] == 1 and scores["ap65"] == 0
    assert scores["ap_mean"] == pytest.approx(3 / 9)
    steps = tuple(np.arange(0.5, 1, 0.05))
    again = matching.scores([matching.match(true, found, steps)])
    assert again == scores
    high = matching.scores([matching.match(true, found, (0.95,))])
    assert "ap_mean" not in high


def test_nothing_to_find_and_nothing_found_is_right():
    empty = np.zeros((4, 4), np.int32)
    result = matching.match(empty, empty)
    assert result.ap[0] == 0  # as stardist has it
    scores = matching.scores([result])
    assert scores["ap50"] == scores["ap50_image"] == 1
    assert scores["count_error"] == 0
    nothing = matching.match(np.zeros((0, 4), int), np.zeros((0, 4), int))
    assert (nothing.n_true, nothing.n_found) == (0, 0)


def test_pooling_weighs_objects_and_the_mean_weighs_images():
    empty = np.zeros((20, 20), np.int32)
    one = np.where(_true() == 3, 1, 0)
    matchings = [matching.match(_true(), empty), matching.match(one, one)]
    scores = matching.scores(matchings)
    assert scores["ap50"] == 1 / 4
    assert scores["ap50_image"] == 1 / 2
    assert scores["count_error"] == 1 / 2


def test_intervals_hold_the_scores_and_shrink_with_more_images():
    empty = np.zeros((20, 20), np.int32)
    one = np.where(_true() == 3, 1, 0)
    matchings = [matching.match(_true(), empty), matching.match(one, one)] * 5
    scores = matching.scores(matchings)
    few = matching.intervals(matchings, 300)
    many = matching.intervals(matchings * 10, 300)
    assert set(few) == set(scores)
    for name, (low, high) in few.items():
        assert low <= scores[name] <= high
        assert many[name][1] - many[name][0] < high - low or high == low
    assert matching.intervals(matchings, 300) == few


@pytest.mark.parametrize(
    ("true", "found", "words"),
    [
        (np.zeros((2, 2), int), np.zeros((2, 3), int), "shape"),
        (np.zeros((2, 2)), np.zeros((2, 2), int), "true labels are not"),
        (np.zeros((2, 2), int), -np.ones((2, 2), int), "found labels are not"),
    ],
)
def test_bad_labels_are_refused(true, found, words):
    with pytest.raises(ValueError, match=words):
        matching.match(true, found)


def test_bad_thresholds_and_no_images_are_refused():
    with pytest.raises(ValueError, match="thresholds"):
        matching.match(_true(), _true(), (0.0, 0.5))
    with pytest.raises(ValueError, match="no image"):
        matching.scores([])
    low = matching.match(_true(), _true(), (0.5,))
    with pytest.raises(ValueError, match="different"):
        matching.pooled([low, matching.match(_true(), _true(), (0.6,))])
