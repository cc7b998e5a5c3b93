"""Claims about the knobs: typed, saved whole, and refused at the door."""

import dataclasses
import json
import math
import typing

import pytest

from seg import config


def changed(**changes):
    """The defaults with model__width=8 and the like changed."""
    paths = {k.replace("__", "."): v for k, v in changes.items()}
    return config.replace(config.Config(), paths)


def other(value, kind):
    """A value of the knob's kind that is not this one."""
    if kind is bool:
        return not value
    if isinstance(value, tuple):
        empty = {"str": "x", "float": 0.5, "int": 7}
        item = typing.get_args(kind)[0]
        return tuple(other(v, type(v)) for v in value) or (
            empty[item.__name__],
        )
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, int | float):
        return value + 1
    return {int | None: 7, float | None: 0.5, str | None: "x"}[kind]


def everything_changed():
    return config.replace(
        config.Config(),
        {path: other(value, kind) for path, value, kind, _ in config.leaves()},
    )


def test_the_defaults_can_run():
    assert config.check(config.Config()) == config.Config()


def test_every_knob_has_its_line_of_help():
    helps = {path: text for path, _, _, text in config.leaves()}
    assert len(helps) > 90
    assert all(text and "\n" not in text for text in helps.values())


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.Config().model.width = 3


@pytest.mark.parametrize("make", [config.Config, everything_changed])
def test_json_and_flat_give_the_same_config_back(make):
    built = make()
    assert config.from_json(config.to_json(built)) == built
    assert config.replace(config.Config(), config.to_flat(built)) == built


def test_a_change_changes_its_knob_alone():
    before = config.to_flat(config.Config())
    for path, value, kind, _ in config.leaves():
        after = config.to_flat(
            config.replace(config.Config(), {path: other(value, kind)})
        )
        assert [p for p in before if before[p] != after[p]] == [path]


def test_an_older_file_without_a_knob_gets_its_default():
    tree = json.loads(config.to_json(changed(train__seed=3)))
    del tree["train"]["keep"], tree["augment"]
    found = config.from_json(json.dumps(tree))
    assert found == changed(train__seed=3)


def test_json_lists_become_tuples_and_whole_numbers_floats():
    text = '{"classes": ["bg", "a"], "augment": {"scale_range": [1, 2]}}'
    found = config.from_json(text)
    assert found.classes == ("bg", "a")
    assert found.augment.scale_range == (1.0, 2.0)
    assert type(found.augment.scale_range[0]) is float


@pytest.mark.parametrize("text", ["{", "[1]", "3", '"x"', "null"])
def test_what_is_no_config_is_refused(text):
    with pytest.raises(config.ConfigError, match="config is no"):
        config.from_json(text)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.width", 1.5),
        ("model.width", True),
        ("model.width", "8"),
        ("train.seed", None),
        ("train.augment", 1),
        ("optim.ema", True),
        ("optim.ema", False),
        ("optim.ema", "0.5"),
        ("data.path", None),
        ("classes", "background"),
        ("classes", [1, 2]),
        ("predict.min_area", 30),
        ("augment.scale_range", [1.0]),
        ("augment.scale_range", [1.0, 2.0, 3.0]),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(path, value):
    with pytest.raises(config.ConfigError, match=path):
        config.replace(config.Config(), {path: value})


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("model.widht", "model.width"),
        ("modle.width", "model.width"),
        ("widht", None),
        ("train.learning_rate", "optim.learning_rate"),
        ("momentum", "optim.momentum"),
    ],
)
def test_a_misspelled_knob_is_answered_with_the_right_one(wrong, right):
    with pytest.raises(config.ConfigError) as caught:
        config.replace(config.Config(), {wrong: 3})
    text = str(caught.value)
    assert f"unknown knob {wrong!r}" in text
    if right:
        assert text.endswith(f"did you mean {right}?")


def test_a_last_part_alone_names_every_knob_that_ends_in_it():
    known = config.to_flat(config.Config())
    assert config.nearest("seed", known) == ["synthetic.seed", "train.seed"]
    assert config.nearest("zzzzzz", known) == []
    assert "known: a, b" in config.unknown("term", "zzzzzz", ["b", "a"])


def test_a_diff_names_old_and_new():
    before, after = config.Config(), changed(model__width=8, train__seed=1)
    assert config.diff(before, before) == []
    assert config.diff(before, after) == [
        "model.width: None -> 8",
        "train.seed: 0 -> 1",
    ]


NAN, INF = math.nan, math.inf
FRACTIONS = (
    "data.val_frac", "data.test_frac", "data.object_rich", "synthetic.touching",
    "augment.flip", "augment.rotate", "augment.scale", "augment.crop_pad",
    "augment.blur", "augment.invert", "augment.elastic", "augment.grey",
    "optim.warmup_frac", "predict.threshold",
)  # fmt: skip
BELOW_ONE = (
    "data.overlap", "predict.overlap", "optim.ema", "optim.momentum",
    "model.dropout", "augment.contrast", "augment.colour", "optim.swa",
)  # fmt: skip
POSITIVE = (
    "model.in_channels", "model.n_classes", "model.width", "data.tile",
    "data.cache_mib", "synthetic.n_train", "synthetic.height",
    "synthetic.width", "synthetic.diameter", "optim.learning_rate",
    "train.batch_size", "train.epochs", "train.log_every", "train.keep",
    "predict.batch_size", "predict.watershed_distance",
    "loss.tversky_gamma", "loss.boundary_width",
    "optim.cycles", "data.gamma", "predict.diameter", "predict.pixel_size",
    "augment.elastic_spacing",
)  # fmt: skip
NOT_NEGATIVE = (
    "model.depth", "data.per_image", "data.split_seed", "synthetic.n_val",
    "synthetic.n_test",
    "synthetic.n_objects", "synthetic.noise", "synthetic.blur",
    "synthetic.shading", "synthetic.seed", "augment.rotate_degrees",
    "augment.brightness", "augment.gamma", "augment.blur_sigma",
    "augment.elastic_px",
    "augment.noise", "loss.focal_gamma", "loss.boundary_weight",
    "optim.weight_decay",
    "optim.clip_norm", "train.steps", "train.seed", "train.eval_every",
    "train.eval_images", "train.checkpoint_every", "train.patience",
    "predict.tile", "predict.closing",
    "predict.gap", "predict.watershed_sigma", "track.n_overlays",
    "optim.swa_every", "data.invert_above", "data.rescale",
    "data.resize", "data.diameter",
    "data.pixel_size", "data.folds", "data.fold",
)  # fmt: skip
CHOICES = {
    "model.norm": "layer", "model.stem": 3, "model.dtype": "float16",
    "data.layout": "dsb", "data.overlaps": "last", "data.split": "random",
    "data.normalize": "zscore", "data.gap": 3, "synthetic.kind": "dogs",
    "data.spacing": "even",
    "optim.name": "lion", "optim.schedule": "linear", "train.mode": "best",
    "predict.tta": 3, "predict.separate": "none", "predict.connectivity": 3,
    "loss.hinge": "relu6",
}  # fmt: skip
WRONG = [
    *((path, value) for path in FRACTIONS for value in (-0.1, 1.1, NAN)),
    *((path, value) for path in BELOW_ONE for value in (-0.1, 1.0, NAN)),
    *((path, value) for path in POSITIVE for value in (0, -1)),
    *((path, -1) for path in NOT_NEGATIVE),
    *CHOICES.items(),
    *((path, v) for path, _, kind, _ in config.leaves() if kind is float
      for v in (NAN, INF, -INF)),
    ("augment.scale_range", (1.2, 0.8)),
    ("augment.scale_range", (0.0, 1.0)),
    ("augment.scale_range", (-1.0, 1.0)),
    ("augment.scale_range", (0.5, NAN)),
    ("augment.scale_range", (0.5, INF)),
    ("augment.crop_pad_frac", 0.5),
    ("augment.crop_pad_frac", -0.1),
    ("loss.boundary_width", 10),
    ("loss.class_weights", (1.0,)),
    ("loss.class_weights", (0.0, 0.0)),
    ("loss.class_weights", (1.0, -1.0)),
    ("loss.class_weights", (1.0, 2.0, 3.0)),
    ("loss.class_weights", (1.0, NAN)),
    ("loss.tversky", (0.0, 0.0)),
    ("loss.tversky", (-0.1, 1.0)),
    ("loss.tversky", (0.5, INF)),
    ("model.n_classes", 3),
    ("classes", ("background",)),
    ("classes", ("a", "a")),
    ("classes", ("background", "")),
    ("predict.min_area", (-1,)),
    ("predict.min_area", (1, 2)),
    ("data.folds", 1),
    ("data.fold", 1),
    ("predict.calibration", (1.0,)),
    ("predict.calibration", (1.0, NAN)),
    ("predict.margin", (-1,)),
    ("predict.margin", ()),
    ("synthetic.n_classes", 3),
    ("data.normalize", ""),
    ("data.normalize", "minmax + "),
    ("data.normalize", "minmax, gamma"),
    ("data.normalize", "gamma"),
    ("data.normalize", "standard + gamma"),
    ("data.normalize", "invert + gamma"),
    ("data.normalize", "range + columns + gamma"),
    ("data.mean", (1.0,)),
    ("data.std", (1.0,)),
    ("data.mean", (1.0, 2.0)),
    ("data.mean", (NAN,)),
    ("data.resize", 255),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value"), WRONG)
def test_a_value_that_cannot_run_is_refused_by_name(path, value):
    with pytest.raises(config.ConfigError) as caught:
        config.check(config.replace(config.Config(), {path: value}))
    assert path in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("path", [*FRACTIONS, *BELOW_ONE, *NOT_NEGATIVE])
def test_zero_is_allowed_where_it_means_off(path):
    config.check(config.replace(config.Config(), {path: 0}))


def test_every_number_of_the_config_has_a_bound():
    free = {"augment.fill", "synthetic.n_classes"}  # a value, and by kind
    bounded = {path for path, _ in WRONG} | free
    for path, _, kind, _ in config.leaves():
        if kind in (int, float, int | None, float | None):
            assert path in bounded


def test_two_averages_of_the_weights_at_once_are_refused():
    config.check(changed(optim__swa=0.2))
    with pytest.raises(config.ConfigError, match=r"optim\.ema=0\.9 and optim"):
        config.check(changed(optim__swa=0.2, optim__ema=0.9))


def test_only_a_cosine_has_cycles():
    config.check(changed(optim__cycles=3))
    with pytest.raises(config.ConfigError, match=r"optim\.cycles=3 with"):
        config.check(changed(optim__cycles=3, optim__schedule="constant"))


@pytest.mark.parametrize(
    "text", ["minmax+gamma", "invert+ percentile", "standard + minmax + gamma"]
)
def test_steps_of_intensities_are_named_in_any_order(text):
    config.check(changed(data__normalize=text))
    wrong = text.replace("min", "mni").replace("percent", "prcent")
    with pytest.raises(config.ConfigError, match=r"did you mean (min|percent)"):
        config.check(changed(data__normalize=wrong))


def test_mean_and_deviation_come_together():
    known = {"data__mean": (90.0,), "data__std": (30.0,)}
    config.check(changed(**known, data__normalize="global"))
    for std in ((), (0.0,), (-1.0,)):
        with pytest.raises(config.ConfigError, match=r"data\.std"):
            config.check(changed(**known | {"data__std": std}))


def test_a_tile_is_no_larger_than_what_images_are_resized_to():
    config.check(changed(data__resize=128, data__tile=128))
    with pytest.raises(config.ConfigError, match=r"data\.tile=128$"):
        config.check(changed(data__resize=128))


@pytest.mark.parametrize("layout", ["folders", "dsb2018", "stardist"])
def test_names_of_classes_are_for_files_that_have_names(layout):
    known = {"data__aliases": ("rbc=foreground",)}
    config.check(changed(**known, data__layout="labelme"))
    config.check(changed(**known))  # `seg verify` finds the layout later
    with pytest.raises(config.ConfigError, match=rf"data\.layout={layout}"):
        config.check(changed(**known, data__layout=layout))


def test_two_shares_must_leave_some_for_training():
    with pytest.raises(config.ConfigError, match="leave no training"):
        config.check(changed(data__val_frac=0.5, data__test_frac=0.5))


def test_one_value_a_class_is_right_where_there_are_more():
    config.check(
        changed(
            classes=("background", "a", "b"),
            model__n_classes=3,
            predict__min_area=(1, 2),
            predict__margin=(3,),
        )
    )


def test_a_weight_a_class_is_right_for_one_sigmoid_too():
    config.check(changed(loss__class_weights=(1.0, 5.0)))


@pytest.mark.parametrize("name", ["brightness", "gamma", "noise", "invert"])
def test_intensities_as_they_are_cannot_be_augmented_in_shares(name):
    off = dict.fromkeys(("brightness", "gamma", "noise", "invert"), 0.0)
    raw = {f"augment__{other}": value for other, value in off.items()}
    raw["data__normalize"] = "none"
    config.check(changed(**raw))
    inverted = raw | {"data__normalize": "invert", f"augment__{name}": 0.1}
    with pytest.raises(config.ConfigError, match="=invert leaves them"):
        config.check(changed(**inverted))
    wrong = raw | {f"augment__{name}": 0.1}
    with pytest.raises(config.ConfigError, match=rf"augment\.{name}=0$"):
        config.check(changed(**wrong))
    config.check(changed(**wrong, train__augment=False))
