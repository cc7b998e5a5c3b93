import itertools
import sys

import numpy as np
import pytest
from PIL import Image

from seg.evaluate import marks, plots
from seg.evaluate.plots import sweeps


def _scene():
    """(image, truth, labels): one right, one missed, one wrong, one merged."""
    truth = np.zeros((60, 80), np.int32)
    truth[5:15, 5:15] = 1  # right
    truth[5:15, 30:40] = 2  # missed
    truth[30:40, 5:15] = 3  # 3 and 4 are found as one
    truth[30:40, 15:25] = 4
    labels = np.where(truth == 1, 7, 0).astype(np.int32)
    labels[30:40, 5:27] = 8
    labels[30:40, 50:60] = 9  # wrong
    rng = np.random.default_rng(0)
    image = rng.integers(90, 110, (60, 80, 1)).astype(np.uint8)
    image[truth > 0] += 100
    return image, truth, labels


def _nearest_mark(pixel):
    """Which of the marks a pixel is tinted with, None for grey."""
    pixel = np.asarray(pixel, float)
    tint = pixel - pixel.mean()
    if np.abs(tint).max() < 8:
        return None
    colours = {"right": marks.RIGHT, "missed": marks.MISSED}
    colours["wrong"] = marks.WRONG
    score = {}
    for name, colour in colours.items():
        other = np.array(colour) - np.mean(colour)
        score[name] = tint @ other / np.linalg.norm(other)
    return max(score, key=score.get)


@pytest.mark.parametrize("side", [None, 160, 40])
def test_every_object_has_the_colour_of_its_fate(side):
    image, truth, labels = _scene()
    drawn = marks.truth_overlay(image, truth, labels, side=side)
    scale = (side or 80) / 80
    assert drawn.dtype == np.uint8
    assert drawn.shape == (round(60 * scale), round(80 * scale), 3)

    def at(row, col):
        return _nearest_mark(drawn[int(row * scale), int(col * scale)])

    assert at(10, 10) == "right"
    assert at(10, 35) == "missed"
    assert at(35, 10) == "missed"  # inside the false merger
    assert at(35, 55) == "wrong"
    assert at(50, 70) is None


def test_outlines_follow_what_was_found_and_fills_what_was_not():
    image, truth, labels = _scene()
    drawn = marks.truth_overlay(image, truth, labels)
    assert tuple(drawn[5, 10]) == marks.RIGHT
    assert tuple(drawn[30, 55]) == marks.WRONG
    assert tuple(drawn[30, 12]) == marks.WRONG  # the merger's outline
    assert tuple(drawn[35, 14]) == marks.MISSED  # between the two in it
    assert tuple(drawn[5, 35]) == marks.MISSED


def test_a_perfect_prediction_shows_one_colour_only():
    image, truth, _ = _scene()
    drawn = marks.truth_overlay(image, truth, truth)
    found = {_nearest_mark(pixel) for pixel in drawn.reshape(-1, 3)}
    assert found == {None, "right"}


def test_pixels_missed_of_an_object_that_was_found_are_tinted():
    image, truth, _ = _scene()
    labels = np.where(truth == 1, 1, 0)
    labels[:, 12:] = 0
    labels[5:15, 3:5] = 1
    drawn = marks.truth_overlay(image, np.where(truth == 1, 1, 0), labels)
    assert _nearest_mark(drawn[10, 14]) == "missed"
    assert _nearest_mark(drawn[10, 4]) == "wrong"
    assert _nearest_mark(drawn[10, 8]) == "right"


def test_class_maps_are_marked_pixel_by_pixel():
    image, truth, labels = _scene()
    classes, true = (labels > 0).astype(np.uint8), (truth > 0) * 1
    true[:, 12:15] = 255
    true[10:15, 5:9] = 2  # another class
    drawn = marks.class_overlay(image, true, classes)
    assert _nearest_mark(drawn[7, 7]) == "right"
    assert _nearest_mark(drawn[12, 7]) == "wrong"
    assert _nearest_mark(drawn[10, 35]) == "missed"
    assert _nearest_mark(drawn[10, 13]) is None  # not annotated
    assert _nearest_mark(drawn[50, 70]) is None


@pytest.mark.parametrize("by_class", [False, True])
def test_objects_are_tinted_by_themselves_or_by_their_class(by_class):
    image, _, labels = _scene()
    classes = np.where(labels == 9, 2, labels > 0).astype(np.uint8)
    drawn = marks.objects_overlay(
        image, labels, classes if by_class else None, side=160
    ).astype(int)
    lines = [tuple(drawn[20, 10]), tuple(drawn[60, 10]), tuple(drawn[60, 110])]
    assert len(set(lines)) == (2 if by_class else 3)
    plain = marks.picture(image, 160)
    assert (drawn[100:, 130:] == plain[100:, 130:]).all()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("n_channels", [1, 3])
def test_overlays_take_any_image_and_no_object(kind, n_channels):
    image = np.ones((5, 7, n_channels), kind)
    nothing = np.zeros((5, 7), np.int32)
    for drawn in (
        marks.truth_overlay(image, nothing, nothing, side=30),
        marks.class_overlay(image, nothing, nothing, side=30),
        marks.objects_overlay(image, nothing, side=30),
    ):
        assert drawn.shape == (21, 30, 3)


# Machado, Oliveira and Fernandes 2009, severity 1, in linear RGB
COLOUR_BLIND = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.mark.parametrize("kind", COLOUR_BLIND)
def test_the_colour_blind_tell_the_three_marks_apart(kind):
    from skimage import color

    seen = []
    for colour in (marks.RIGHT, marks.MISSED, marks.WRONG):
        linear = (np.array(colour) / 255) ** 2.2
        shown = np.clip(COLOUR_BLIND[kind] @ linear, 0, 1) ** (1 / 2.2)
        seen.append(color.rgb2lab(shown[None, None])[0, 0])
    for a, b in itertools.combinations(seen, 2):
        assert np.linalg.norm(a - b) > 25  # 2 is just noticeable


def _history():
    history = []
    for step in range(1, 101):
        history.append((step, {"train/loss": 1 / step, "perf/x": 3.0}))
        if step % 20 == 0:
            scores = {"val/dice": 1 - 1 / step, "val/count_error": 1 / step}
            history.append((step, scores))
    return history


def _size(path):
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        return image.size


def test_curves_have_a_panel_for_each_kind_of_score(tmp_path):
    (three,) = plots.curves(_history(), tmp_path / "a")
    assert three == tmp_path / "a" / "training.png"
    losses = [(s, v) for s, v in _history() if "train/loss" in v]
    (one,) = plots.curves(losses, tmp_path / "b")
    assert _size(three)[0] == pytest.approx(3 * _size(one)[0], abs=3)
    everything = [
        (s, v | {"val/ap50": 0.5, "train/learning_rate": 1e-3})
        for s, v in _history()
    ]
    (five,) = plots.curves(everything, tmp_path / "c")
    assert _size(five)[0] == _size(three)[0]
    assert _size(five)[1] == pytest.approx(2 * _size(three)[1], abs=2)


def test_curves_are_the_same_for_the_same_history(tmp_path):
    (one,) = plots.curves(_history(), tmp_path / "a")
    disordered = [*_history()[::-1], (3, {"train/loss": float("nan")})]
    (two,) = plots.curves(disordered, tmp_path / "b")
    assert one.read_bytes() == two.read_bytes()


def test_curves_of_nothing_known_are_no_files(tmp_path):
    history = [(1, {"perf/x": 1.0, "val/dice": float("nan")})]
    assert plots.curves(history, tmp_path) == []
    assert plots.curves([], tmp_path) == []
    assert not list(tmp_path.iterdir())


def test_curves_miss_matplotlib_politely(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not plots.available()
    assert plots.curves(_history(), tmp_path) == []
    assert "matplotlib is not installed" in caplog.text


def test_figures_leave_matplotlib_as_it_was(tmp_path):
    import matplotlib

    before = matplotlib.rcParams.copy()
    plots.curves(_history(), tmp_path)
    assert matplotlib.rcParams.copy() == before


def test_a_figure_that_fails_leaves_no_file(tmp_path):
    with pytest.raises(ValueError):
        plots.ap_curve(tmp_path / "ap.png", [0.5, 0.6], {"all": [0.1]})
    assert not list(tmp_path.iterdir())


def test_comparison_takes_runs_that_lack_a_score(tmp_path):
    runs = {
        "unet": {"test/dice": 0.9, "test/count_error": 0.1},
        "Otsu": {"test/dice": 0.8},
    }
    bounds = {"unet": {"test/dice": (0.85, 0.95)}}
    names = ["test/dice", "test/count_error", "test/none"]
    plots.comparison(tmp_path / "a.png", runs, names, bounds)
    more = runs | {f"s{i}": {"test/dice": 0.5} for i in range(8)}
    plots.comparison(tmp_path / "b.png", more, names, bounds)
    low, high = _size(tmp_path / "a.png"), _size(tmp_path / "b.png")
    assert low[0] == high[0]
    assert low[1] < high[1]


def test_pictures_stand_side_by_side(tmp_path):
    image, truth, labels = _scene()
    raw = marks.picture(image, 120)
    marked = marks.truth_overlay(image, truth, labels, side=120)
    plots.overlay(tmp_path / "a.png", raw, marked, title="one")
    plots.overlay(
        tmp_path / "b.png", raw, marked, title="one",
        counts={"right": 1, "missed": 3, "wrong": 2},
    )  # fmt: skip
    width, height = _size(tmp_path / "a.png")
    assert width > 1.9 * height
    assert (tmp_path / "a.png").read_bytes() != (
        tmp_path / "b.png"
    ).read_bytes()


@pytest.mark.parametrize("pixel_um", [None, 0.5])
def test_hero_shows_objects_errors_and_areas(tmp_path, pixel_um):
    image, truth, labels = _scene()
    part = (slice(0, 60), slice(0, 60))
    path = tmp_path / "hero.png"
    plots.hero(path, image[part], labels[part], truth[part], pixel_um=pixel_um)
    width, height = _size(path)
    assert width > 3 * height
    nothing = np.zeros((60, 60), np.int32)
    plots.hero(path, image[part], nothing, nothing, classes=nothing)


@pytest.mark.parametrize(
    "values", [[0.35, 0.3481, 0.2], [1e-3, 1.01e-3, 1e-2, 5e-2], [3, 4, 5]]
)
def test_numbers_on_an_axis_do_not_overlap(values):
    axis = sweeps._Axis(values, [*range(len(values))])
    at = sorted(place for place, _ in axis.ticks)
    assert len(at) > 1 and np.diff(at).min() >= sweeps._LINE


def test_an_axis_upside_down_has_its_own_values_too():
    texts = [
        [text for _, text in sweeps._Axis([1.5, 4.2, 9], [0, 1, 2], flip).ticks]
        for flip in (False, True)
    ]
    assert texts == [["1.5", "4.2", "9"]] * 2


def test_a_score_is_never_on_a_logarithmic_axis():
    scores = [0.01, 0.03, 0.1, 0.8]
    axis = sweeps._Axis(scores, [0, 1, 2, 3], log=False)
    np.testing.assert_allclose(
        axis.at, [0, 0.02 / 0.79, 0.09 / 0.79, 1], atol=1e-9
    )
