"""What suits a folder of labelled images: knobs, each with its reason."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from seg import config as config_lib
from seg.data import targets
from seg.evaluate import survey
from seg.predict import bundle

_STRIDE = 32  # of tiles, px: what every network here can halve


class Choice(NamedTuple):
    """The value of a knob, and why."""

    knob: str
    value: Any
    why: str


def base(model: bundle.Bundle | None) -> config_lib.Config:
    """What a training begins with: the config of a model, or a small U-Net."""
    shared = {
        "data.test_frac": 0.0, "data.val_frac": 0.2, "data.exclude": "",
        "data.hard": "", "data.folds": 0, "data.sha256": "",
        "augment.scale": 0.5, "augment.rotate": 0.3, "augment.reflect": True,
        "augment.elastic": 0.2, "loss.per_image": True, "loss.objects": 5.0,
        "loss.touching": 4.0, "optim.name": "muon",
    }  # fmt: skip
    if model is None:
        network = config_lib.Model(
            width=32, depth=3, stem=2, norm="batch", objects="distance"
        )
        made = config_lib.Config(
            model=network,
            predict=config_lib.Predict(separate="learned", connectivity=1),
        )
        return config_lib.replace(made, shared)
    kept = config_lib.replace(
        model.config,
        {
            "predict.calibration": (),
            "predict.min_probability": 0.0,
            "model.encoder": "",
        },
    )
    fresh = config_lib.Config(
        classes=kept.classes, model=kept.model, predict=kept.predict
    )
    same = ("normalize", "gamma", "invert_above", "mean", "std", "resize")
    scaling = {f"data.{name}": getattr(kept.data, name) for name in same}
    return config_lib.replace(fresh, shared | scaling)


def choose(
    found: survey.Survey, config: config_lib.Config, tunes: bool
) -> list[Choice]:
    """The knobs that depend on the images.

    found: of the prepared records. tunes: a trained model is adapted, which
    takes fewer and smaller steps.
    """
    rows = [row for row in found.rows if row["split"] == "train"]
    sides = np.array([(row["rows"], row["cols"]) for row in found.rows])
    shortest = int(sides.min())
    diameter = targets.diameter(found.areas)
    choices = [_tile(shortest, diameter)]
    tile = choices[0].value
    choices.append(
        Choice(
            "train.batch_size",
            8 if tile <= 256 else 4,
            f"tiles of {tile} px",
        )
    )
    n, begin = len(rows), "from a trained model" if tunes else "from scratch"
    steps = config.train.steps or n_steps(n, tunes)
    choices.append(
        Choice("train.steps", steps, f"{n} images to train on, {begin}")
    )
    choices.append(
        Choice(
            "train.eval_every",
            max(steps // 5, 1),
            "five looks at the validation",
        )
    )
    rate = Choice("optim.learning_rate", 3e-3, f"suits {config.optim.name}")
    if tunes and config.optim.name != "muon":
        why = "small: what the model knows stays"
        rate = rate._replace(value=5e-4, why=why)
    choices.append(rate)
    choices.append(
        Choice("optim.ema", 0.99 if steps < 2000 else 0.997, f"{steps} steps")
    )
    known = [row for row in rows if row["n_objects"]]
    monitor = "val/ap_mean" if known else "val/dice"
    choices.append(
        Choice(
            "train.monitor",
            monitor,
            "objects are known" if known else "no objects are known",
        )
    )
    n_coloured = sum(map(_coloured, found.thumbnails))
    if n_coloured and config.model.in_channels == 3:
        n_images = len(found.thumbnails)
        some = "" if n_coloured == n_images else f"{n_coloured} of {n_images} "
        choices.append(Choice("augment.colour", 0.2, f"{some}images in colour"))
    shares = [row["foreground"] for row in rows if row["foreground"]]
    if shares and np.median(shares) < 0.1:
        choices.append(
            Choice(
                "data.object_rich",
                0.5,
                f"objects cover {np.median(shares):.0%} of an image",
            )
        )
    if diameter:
        least_area = max(4, int(np.percentile(found.areas, 1) / 2))
        choices.append(
            Choice(
                "predict.min_area",
                (least_area,),
                "half of what 1 % of the objects are smaller than",
            )
        )
    return choices


def n_steps(n_images: int, tunes: bool) -> int:
    """How long to train on so many images; tunes: as above."""
    each, least, most = (40, 200, 1500) if tunes else (150, 1000, 6000)
    return int(np.clip(each * n_images, least, most))


def _coloured(thumbnail: np.ndarray) -> bool:
    """Whether the channels differ: a model in colour takes grey images too."""
    return bool((thumbnail != thumbnail[..., :1]).any())


def _tile(shortest: int, diameter: float) -> Choice:
    """Some objects across, and no larger than the smallest image needs."""
    wanted = float(np.clip(6 * diameter, 128, 512)) if diameter else 256
    wanted = min(wanted, max(shortest, 64))
    tile = int(np.ceil(wanted / _STRIDE) * _STRIDE)
    why = f"the smallest image has {shortest} px"
    if diameter:
        why = f"objects are {diameter:.0f} px across, " + why
    return Choice("data.tile", tile, why)


def applied(
    config: config_lib.Config,
    choices: list[Choice],
    given: Mapping[str, Any],
) -> config_lib.Config:
    """The config with what was chosen, but for what the user gave."""
    changes = {one.knob: one.value for one in choices}
    return config_lib.replace(config, {**changes, **given})


def explained(choices: list[Choice], given: Mapping[str, Any]) -> str:
    """A line a choice, as the flag that would change it."""
    lines = []
    for one in choices:
        value, why = one.value, one.why
        if one.knob in given:
            value, why = given[one.knob], "as given"
        if isinstance(value, tuple):
            value = ",".join(map(str, value))
        lines.append((f"--{one.knob}={value}", why))
    width = max(len(flag) for flag, _ in lines)
    return "\n".join(f"  {flag:{width}}  {why}" for flag, why in lines)
