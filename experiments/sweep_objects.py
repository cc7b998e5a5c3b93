"""From the map to objects: how they are separated, closed and filtered.

X=experiments/sweep_objects.py
python -m launch.prepare --experiment=$X --data.path=dsb2018_stardist.zip
python -m launch.sweep --experiment=$X --evaluate

Two CPU cores, 18 min: pooled AP@0.5 on the test from .096 (closing of 29 px) by
.555 (components) to .737 (watershed of the shape).
"""

from seg import config

SWEEP = [
    {"predict.separate": "components", "predict.gap": 0},
    {"predict.separate": "components", "predict.gap": 2},
    {"predict.separate": "components", "predict.gap": 2, "predict.closing": 5},
    {"predict.separate": "components", "predict.gap": 0, "predict.closing": 29},
    {"predict.separate": "watershed", "predict.gap": 0},
    {"predict.separate": "watershed", "predict.gap": 2},
    {"predict.separate": "watershed", "predict.watershed_sigma": 1.0},
    {"predict.separate": "watershed", "predict.watershed_distance": 10},
    {"predict.threshold": 0.4},
    {"predict.threshold": 0.6},
    {"predict.min_area": [0]},
    {"predict.min_area": [50]},
    {"predict.fill_holes": True},
]


def get_config() -> config.Config:
    return config.Config(
        model=config.Model(name="unet_small", norm="batch", dropout=0.0),
        data=config.Data(
            layout="stardist", path="dsb2018_stardist.zip", tile=128, gap=2,
            per_image=4),
        augment=config.Augment(scale=0.3),
        optim=config.Optim(learning_rate=2e-3, ema=0.98),
        train=config.Train(
            steps=250, eval_every=50, eval_images=16, monitor="val/ap50"),
        predict=config.Predict(connectivity=1, gap=2, min_area=(12,)),
        track=config.Track(experiment="objects"),
    )  # fmt: skip
