"""Whole cells in phase contrast and bright field, of any size.

unzip -q usiigaci_phase_contrast.zip -d cells/phase
unzip -q pfc_pn_bright_field.zip -d cells/bright
X=experiments/cells.py
python -m launch.prepare --experiment=$X --data.path=cells
python -m launch.train --experiment=$X
python -m launch.evaluate --workdir=runs/cells --split=val --tune

Some are 60 px wide and others 450: every image is prepared with its cells 40 px
wide. Sizes from half to twice, inverted too. `seg/zoo/cells` was made with it:
25 minutes on two CPU cores; AP@0.5 of the test .811 pooled, .931 by image (15
images at that size); more in its card. Touching borders weigh more and Muon
takes the steps: before, AdamW gave .675 and .740 in 57 minutes.
"""

from seg import config


def get_config() -> config.Config:
    return config.Config(
        classes=("background", "cell"),
        model=config.Model(
            width=32, depth=3, stem=2, norm="batch", objects="distance"),
        data=config.Data(
            layout="folders", path="cells", split="images", rescale=40.0,
            object_rich=0.25),
        augment=config.Augment(
            scale=0.7, scale_range=(0.5, 2.0), rotate=0.3, reflect=True,
            elastic=0.3, invert=0.15, blur=0.2),
        loss=config.Loss(per_image=True, objects=5.0, touching=4.0),
        optim=config.Optim(name="muon", learning_rate=3e-3, ema=0.997),
        train=config.Train(epochs=60, eval_every=400, monitor="val/ap_mean"),
        predict=config.Predict(
            separate="learned", connectivity=1, min_area=(30,)),
        track=config.Track(experiment="cells"),
    )  # fmt: skip
