"""Overlap, blending and test-time augmentation, of one trained network.

X=experiments/sweep_stitching.py
python -m launch.prepare --experiment=$X --data.path=dsb2018_stardist.zip
python -m launch.sweep --experiment=$X --evaluate --jobs=2

Two CPU cores, 47 min: Dice of the test from .9215 to .9247, AP@0.5 from .542 to
.570 (8 views, a quarter of overlap, blended).
"""

from seg import config

SWEEP = {
    "predict.overlap": [0.0, 0.25, 0.5],
    "predict.blend": ["last", "mean", "cosine"],
    "predict.tta": [1, 2, 8],
}


def get_config() -> config.Config:
    return config.Config(
        model=config.Model(name="unet_small", norm="batch", dropout=0.0),
        data=config.Data(
            layout="stardist", path="dsb2018_stardist.zip", tile=128, gap=2,
            per_image=4),
        augment=config.Augment(scale=0.3),
        optim=config.Optim(learning_rate=2e-3, ema=0.98),
        train=config.Train(steps=250, eval_every=50, eval_images=16),
        predict=config.Predict(
            tile=128, connectivity=1, gap=2, min_area=(12,)),
        track=config.Track(experiment="stitching"),
    )  # fmt: skip
