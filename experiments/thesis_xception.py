"""The thesis' Xception U-Net on drawn cardiomyocytes, four classes.

python -m launch.prepare --experiment=experiments/thesis_xception.py
python -m launch.train --experiment=experiments/thesis_xception.py
python -m launch.evaluate --experiment=experiments/thesis_xception.py

As the thesis did it: `--experiment=experiments/thesis_xception.py:as_published`
(what else that means: `thesis_segnet.py`, which differs in the network alone).

With `--data.tile=256 --train.steps=250` two busy CPU cores take 16 minutes and
11 GB: Dice of all cells .970, mean IoU .567, count error .100 on four drawn
test images. The whole, 3,840 steps of tiles of 512 px, wants an accelerator.
"""

from seg import config


def get_config() -> config.Config:
    changes = {
        "data.normalize": "percentile", "predict.overlap": 0.25,
        "train.epochs": 40, "train.patience": 0, "augment.fill": 0.0,
        "loss.terms": "cross_entropy + dice", "optim.schedule": "cosine",
    }  # fmt: skip
    return config.replace(as_published(), changes)


def as_published() -> config.Config:
    return config.Config(
        classes=("background", "collapsed", "cardiomyocyte", "half_collapsed"),
        model=config.Model(name="xception_unet", n_classes=4),
        data=config.Data(tile=512, overlap=0.0, normalize="range + columns"),
        synthetic=config.Synthetic(
            kind="cells", n_classes=4, height=2048, width=2048,
            diameter=200.0, n_train=24, n_val=4, n_test=4),
        augment=config.Augment(
            flip=0.4, quarter_turns=False, rotate=0.7, crop_pad=0.2,
            fill=160 / 255, brightness=0.0, contrast=0.0, gamma=0.0, noise=0.0),
        loss=config.Loss(terms="cross_entropy"),
        optim=config.Optim(
            name="adam", schedule="constant", warmup_frac=0.0, clip_norm=0.0),
        train=config.Train(
            batch_size=4, epochs=500, patience=15, monitor="val/loss"),
        predict=config.Predict(
            tile=512, overlap=0.0, closing=29, min_area=(5_000, 10_000, 10_000),
            margin=(0, 30, 50)),
        track=config.Track(experiment="thesis"),
    )  # fmt: skip
