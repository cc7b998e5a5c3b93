"""How touching nuclei are kept apart: three ways at one budget.

X=experiments/sweep_heads.py
python -m launch.prepare --experiment=$X --data.path=dsb2018_stardist.zip
python -m launch.sweep --experiment=$X --evaluate

What the last layer learns beside the foreground, of which objects are the
peaks: how deep a pixel lies in its nucleus, or the nucleus without its border;
or nothing, but a gap of two pixels between nuclei, which are cut by their
shape. StarDist's subset of the Data Science Bowl, 9,600 tiles of 256x256.
"""

from seg import config

_LEARNED = {"predict.separate": "learned"}
SWEEP = [
    {"model.objects": "distance", **_LEARNED},
    {"model.objects": "interior", **_LEARNED},
    {"data.gap": 2, "predict.gap": 2, "predict.separate": "watershed"},
]


def get_config() -> config.Config:
    return config.Config(
        model=config.Model(width=32, depth=3, stem=2, norm="batch"),
        data=config.Data(
            layout="stardist", path="dsb2018_stardist.zip", per_image=2),
        augment=config.Augment(
            scale=0.3, rotate=0.3, elastic=0.3, reflect=True),
        loss=config.Loss(per_image=True),
        optim=config.Optim(learning_rate=3e-3, ema=0.99),
        train=config.Train(
            steps=1200, eval_every=400, monitor="val/ap_mean"),
        predict=config.Predict(
            connectivity=1, min_area=(30,), rescale=False),
        track=config.Track(experiment="heads"),
    )  # fmt: skip
