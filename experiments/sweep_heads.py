"""What a second head should learn, to keep apart the nuclei that touch.

X=experiments/sweep_heads.py
python -m launch.prepare --experiment=$X --data.path=dsb2018_stardist.zip
python -m launch.sweep --experiment=$X
for T in runs/sweep_heads/objects=*; do
    python -m launch.evaluate --workdir=$T --split=val --tune
done

A ninth of `dsb2018_objects.py` for each head, 3,200 tiles of 256x256.
Thresholds are tuned for each, since the maps differ in how they rise and fall.
5 minutes each on two CPU cores: pooled AP@0.5 of the validation .870
(distance), .863 (neighbour), .833 (interior).
"""

from seg import config

SWEEP = [
    {"model.objects": "distance"},
    {"model.objects": "neighbour"},
    {"model.objects": "interior"},
]


def get_config() -> config.Config:
    return config.Config(
        model=config.Model(
            width=32, depth=3, stem=2, norm="batch", objects="distance"),
        data=config.Data(
            layout="stardist", path="dsb2018_stardist.zip", per_image=2),
        augment=config.Augment(
            scale=0.3, rotate=0.3, elastic=0.3, reflect=True),
        loss=config.Loss(per_image=True, objects=5.0, touching=4.0),
        optim=config.Optim(name="muon", learning_rate=3e-3, ema=0.98),
        train=config.Train(steps=400, eval_every=400, monitor="val/ap_mean"),
        predict=config.Predict(
            separate="learned", connectivity=1, min_area=(30,),
            rescale=False),
        track=config.Track(experiment="heads"),
    )  # fmt: skip
