"""Six networks on drawn beads (three classes) and cells (four classes).

X=experiments/sweep_drawn.py
python -m launch.sweep --experiment=$X --evaluate
python -m launch.sweep --experiment=$X:cells --evaluate

Beads and cells of low contrast, as microscale_lovasz draws them; crowded cells
in states of collapse, as thesis_blobs does, at a fifth of their size. The
networks are the four that separate nuclei best in sweep_architectures, and
the two U-Nets that the field knows.
Two CPU cores, an hour and a half each: mean IoU of the beads from .850 to .960,
of the cells from .579 to .755, segnet_indices the best of both.
"""

from seg import config

_BEST = "mobilenet_unet", "segnet_indices", "deeplab_v3plus", "xception_unet"
SWEEP = [
    *({"model.name": name} for name in _BEST),
    {"model.name": "unet_small", "model.norm": "batch"},
    {"model.name": "unet", "model.norm": "batch"},
]


def get_config() -> config.Config:
    return config.Config(
        classes=("background", "bead", "cell"),
        model=config.Model(n_classes=3),
        data=config.Data(tile=128),
        synthetic=config.Synthetic(
            kind="beads", n_classes=3, height=480, width=640, contrast=0.3,
            n_train=40, n_val=8, n_test=20),
        optim=config.Optim(ema=0.98),
        train=config.Train(steps=250, eval_every=50, monitor="val/miou"),
        predict=config.Predict(min_area=(12,)),
        track=config.Track(experiment="drawn"),
    )  # fmt: skip


def cells() -> config.Config:
    names = "background", "collapsed", "cardiomyocyte", "half_collapsed"
    changes = {
        "classes": names, "model.n_classes": 4, "synthetic.kind": "cells",
        "synthetic.n_classes": 4, "synthetic.contrast": 1.0,
        "synthetic.diameter": 40.0,
    }  # fmt: skip
    return config.replace(get_config(), changes)
