# %% [markdown]
# # Train on your own labelled images
#
# You need a folder with `images/` and `masks/`, masks named like their images: object
# ids, class ids, or 0 and 255. A dozen images are a beginning. What comes out is a model
# for `process_new_images.ipynb`, and a run to compare in MLflow (`mlflow ui`).

# %%
import pathlib

DATA = pathlib.Path("my_images").absolute()
WORKDIR = pathlib.Path("runs/mine").absolute()
EPOCHS = 30

# %%
import logging

from IPython import display

import seg
from seg import compiler, config, flags

compiler.configure()  # before JAX starts
logging.getLogger("seg").setLevel(logging.INFO)
logging.basicConfig(format="%(message)s")

settings = config.replace(
    flags.load_experiment("../folders.py"),
    {
        "data.path": str(DATA),
        "data.dir": str(WORKDIR / "records"),
        "train.epochs": EPOCHS,
    },
)

# %% [markdown]
# ## The images
#
# Defects of the files stop here, with their names.

# %%
from seg.data import dataset
from seg.evaluate import survey

records = dataset.prepare(settings)
seen = survey.survey(records, settings.classes)
print(seen.summary())

files = survey.write_all(WORKDIR / "explore", seen)
for path in files:
    if path.suffix == ".png":
        display.display(display.Image(path, width=900))

# %% [markdown]
# ## Train
#
# Stopped and run again, it goes on from where it was; when it is complete, it says so.

# %%
from seg.train import run

course = run.train(settings, WORKDIR)
print(f"{settings.train.monitor} {course.best:.3f} at step {course.best_step}")
display.display(display.Image(WORKDIR / "curves" / "training.png", width=1000))

# %% [markdown]
# ## Score
#
# On the test images, which the training has not seen: found, missed and wrong objects.

# %%
from seg.evaluate import report

predictor = seg.load(WORKDIR)
scores = report.evaluate(
    lambda record: predictor(record["image"], name=record["id"]),
    (records.read("test", i) for i in range(records.n("test"))),
    settings.classes,
    "test",
    folder=WORKDIR / "test",
)
print(scores.summary(["dice", "iou", "ap50", "count_error"]))
for path in sorted((WORKDIR / "test" / "overlays").glob("*_1.png")):
    display.display(display.Image(path, width=900))

# %% [markdown]
# ## And then
#
# The model is in `WORKDIR/bundle`: `seg predict NEW_IMAGES --model=WORKDIR --out=DIR`.
# More objects right: more images of the kind that goes wrong, `data.gap` and
# `predict.separate=watershed` for objects that touch, more `EPOCHS` while the validation
# still improves.
