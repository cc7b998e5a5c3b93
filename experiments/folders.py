"""A small, fast U-Net on images of your own: the one to begin with.

python -m launch.prepare --experiment=experiments/folders.py --data.path=DIR
python -m launch.train --experiment=experiments/folders.py --data.path=DIR
python -m launch.evaluate --experiment=experiments/folders.py

DIR has `images/` and `masks/` (or `train/inputs` and `train/masks`), masks
named like their images: object ids, class ids, or 0 and 255.
"""

from seg import config


def get_config() -> config.Config:
    return config.Config(
        model=config.Model(width=32, depth=3, stem=2, norm="batch"),
        data=config.Data(layout="folders", gap=2),
        augment=config.Augment(scale=0.3),
        loss=config.Loss(per_image=True),
        optim=config.Optim(learning_rate=3e-3, ema=0.99),
        train=config.Train(epochs=30),
        predict=config.Predict(connectivity=1, gap=2),
    )
