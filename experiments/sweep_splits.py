"""How much a split that leaks flatters: images whole, or tile by tile.

X=experiments/sweep_splits.py
python -m launch.prepare --experiment=$X --data.path=dsb2018_stardist.zip
python -m launch.sweep --experiment=$X --evaluate

Two CPU cores, 6 min: Dice of validation .924, leaking .945; of the test .920
and .915.

With `tiles`, parts of one image train and validate (arXiv:1907.03576 did so);
the 50 test images are the same. What validation promises beyond what the test
keeps is the leak.
"""

from seg import config

SWEEP = {"data.split": ["auto", "tiles"]}


def get_config() -> config.Config:
    return config.Config(
        model=config.Model(name="unet_small", norm="batch", dropout=0.0),
        data=config.Data(
            layout="stardist", path="dsb2018_stardist.zip", tile=128, gap=2),
        augment=config.Augment(scale=0.3),
        optim=config.Optim(learning_rate=2e-3, ema=0.98),
        train=config.Train(steps=250, eval_every=50, eval_images=16),
        predict=config.Predict(connectivity=1, gap=2, min_area=(12,)),
        track=config.Track(experiment="splits"),
    )  # fmt: skip
