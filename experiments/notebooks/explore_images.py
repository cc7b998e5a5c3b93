# %% [markdown]
# # Look at labelled images
#
# Sizes, intensities, clusters, objects: what a network will be trained on. The same as
# `python -m launch.explore`, which also records it in MLflow.

# %%
import pathlib

DATA = pathlib.Path("my_images").absolute()  # a folder or zip: images/ and masks/
LAYOUT = "folders"  # how the files lie: folders, labelme, dsb2018, stardist
WORKDIR = pathlib.Path("runs/look").absolute()

# %%
from IPython import display

from seg import config
from seg.data import dataset
from seg.evaluate import survey

settings = config.replace(
    config.Config(),
    {
        "data.layout": LAYOUT,
        "data.path": str(DATA),
        "data.dir": str(WORKDIR / "records"),
    },
)
records = dataset.prepare(settings)
seen = survey.survey(records, settings.classes)
print(seen.summary())

# %% [markdown]
# The clusters are those that `--data.split=clusters` spreads evenly over training, validation and
# test. Two things may differ here: images that another split keeps together, and images of 8 bits
# beside others of 16, with which they are stored in one type.

# %%
files = survey.write_all(WORKDIR / "explore", seen)
for path in files:
    if path.suffix == ".png":
        display.display(display.Image(path, width=900))

# %% [markdown]
# The images with the most objects, from the table that was written beside the pictures:

# %%
most = sorted(seen.rows, key=lambda row: -(row["n_objects"] or 0))[:5]
for row in most:
    print(row["image"], row["n_objects"], "objects,", row["median_area_px"], "px")
