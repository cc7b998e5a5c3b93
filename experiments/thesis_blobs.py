"""Drawn cardiomyocytes, and the blob detection of a thesis on real ones.

Four classes; those of interest are closed by a 29x29 square, kept from
10,000 px on and boxed with 30 px (half-collapsed: 50 px) around them.

python -m launch.prepare --experiment=experiments/thesis_blobs.py
python -m launch.train --experiment=experiments/thesis_blobs.py
python -m launch.evaluate --experiment=experiments/thesis_blobs.py
"""

from seg import config


def get_config() -> config.Config:
    return config.Config(
        classes=("background", "collapsed", "cardiomyocyte", "half_collapsed"),
        model=config.Model(
            width=16, depth=4, stem=2, norm="batch", n_classes=4
        ),
        data=config.Data(tile=512),
        synthetic=config.Synthetic(
            kind="cells",
            n_classes=4,
            height=2048,
            width=2048,
            diameter=200.0,
            n_train=8,
            n_val=2,
            n_test=2,
        ),
        optim=config.Optim(learning_rate=3e-3, ema=0.98),
        train=config.Train(batch_size=4, epochs=4),
        predict=config.Predict(
            tile=512,
            closing=29,
            # what is not of interest is as good as always too small
            min_area=(10**9, 10_000, 10_000),
            margin=(0, 30, 50),
        ),
        track=config.Track(experiment="thesis"),
    )
