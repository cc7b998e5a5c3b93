"""Objects of StarDist's benchmark, by what the network learns of their borders.

X=experiments/dsb2018_objects.py
python -m launch.prepare --experiment=$X --data.path=dsb2018_stardist.zip
python -m launch.train --experiment=$X
W=runs/dsb2018_objects
python -m launch.evaluate --workdir=$W --split=val --tune --predict.tta=8
python -m launch.evaluate --workdir=$W

42 minutes on two CPU cores, seed 0: on the 50 test images AP@0.5 .870 pooled,
.878 by image, mean AP .685, count error .055; on the 67 of validation .891,
.883, .718, .074. A ninth of it (`--train.steps=400 --optim.ema=0.98`, 6
minutes, without `--predict.tta`) has .870, .864, .692, .080 there.
`$X:gpu` is for one accelerator: full resolution, wider; not measured yet.
"""

from seg import config


def get_config() -> config.Config:
    return config.Config(
        model=config.Model(
            width=32, depth=3, stem=2, norm="batch", objects="distance"),
        data=config.Data(
            layout="stardist", path="dsb2018_stardist.zip", per_image=2),
        augment=config.Augment(
            scale=0.3, rotate=0.3, elastic=0.3, reflect=True),
        loss=config.Loss(per_image=True, objects=5.0, touching=4.0),
        optim=config.Optim(name="muon", learning_rate=3e-3, ema=0.998),
        train=config.Train(
            steps=3600, eval_every=600, monitor="val/ap_mean"),
        predict=config.Predict(
            separate="learned", connectivity=1, min_area=(30,),
            rescale=False),
        track=config.Track(experiment="dsb2018"),
    )  # fmt: skip


def gpu() -> config.Config:
    changes = {
        "model.stem": 1, "model.depth": 4, "model.width": 64,
        "model.dtype": "bfloat16", "train.batch_size": 32,
        "train.steps": 6000, "train.eval_every": 500,
    }  # fmt: skip
    return config.replace(get_config(), changes)
