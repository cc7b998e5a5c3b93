"""Drawn cardiomyocytes of 4096x4096 px: a thesis' blobs, or learned objects.

python -m launch.sweep --experiment=experiments/sweep_blobs.py --evaluate

One training; its map is closed by a 29x29 square and cut into components, as in
the thesis, or into objects by their shape, or by what the network has learned.
Two busy CPU cores, 20 minutes: F1 of the objects .356 by the thesis, .617 as
learned, .769 by their shape.
"""

from seg import config

_LEARNED = {"predict.separate": "learned", "predict.prominence": 0.1}
SWEEP = [
    {"predict.separate": "components", "predict.closing": 29},
    {"predict.separate": "components"},
    {"predict.separate": "watershed", "predict.watershed_sigma": 10.0,
     "predict.watershed_distance": 50},
    _LEARNED,
    {**_LEARNED, "predict.closing": 29},
]  # fmt: skip


def get_config() -> config.Config:
    return config.Config(
        classes=("background", "collapsed", "cardiomyocyte", "half_collapsed"),
        model=config.Model(
            width=16, depth=4, stem=2, norm="batch", n_classes=4,
            objects="distance"),
        data=config.Data(tile=512),
        synthetic=config.Synthetic(
            kind="cells", n_classes=4, height=4096, width=4096,
            n_objects=160, diameter=200.0, touching=0.5,
            n_train=3, n_val=1, n_test=2),
        optim=config.Optim(learning_rate=3e-3, ema=0.98),
        train=config.Train(batch_size=4, steps=300, eval_every=100),
        predict=config.Predict(tile=512, min_area=(5_000, 10_000, 10_000)),
        track=config.Track(experiment="blobs"),
    )  # fmt: skip
