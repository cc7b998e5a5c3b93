# %% [markdown]
# # Process new images
#
# A trained model on images without labels: objects, a table of them, pictures. One image
# step by step, then a whole folder.

# %%
import pathlib

IMAGES = pathlib.Path("new_images").absolute()  # a folder
MODEL = pathlib.Path("runs/mine").absolute()  # a run, a bundle, or a name
OUT = pathlib.Path("runs/new_images").absolute()

# %% [markdown]
# ## One image

# %%
from IPython import display
from PIL import Image

import seg
from seg.images import read, write

predictor = seg.load(MODEL)
assert IMAGES.is_dir(), f"{IMAGES} is no folder: say above where your images are"
first = sorted(p for p in IMAGES.iterdir() if p.suffix.lower() in read.SUFFIXES)[0]
image = read.read_image(first)
found = predictor(image, name=first.stem)
print(f"{first.name}: {image.shape}, {len(found.table)} objects")


# %%
def show(pixels, width=900):
    display.display(Image.fromarray(pixels).resize(
        (width, round(width * pixels.shape[0] / pixels.shape[1]))
    ))


show(write.overlay(image, found.labels))
show(write.boxes(image, found.labels, found.classes, found.table))

# %% [markdown]
# ## The whole folder
#
# Stopped and run again, finished images are not done again.

# %%
import sys

# !{sys.executable} -m seg predict "{IMAGES}" --model="{MODEL}" --out="{OUT}" \
#     --formats=labels,overlay,csv

# %%
import collections

import numpy as np

from seg.images import formats

rows = formats.read_table(OUT / "objects.csv")
counts = collections.Counter(row["image"] for row in rows)
areas = np.array([row["area_px"] for row in rows])
print(len(rows), "objects in", len(counts), "images")
print("areas, px: 5 %, 50 %, 95 %:", np.percentile(areas, [5, 50, 95]))

# %% [markdown]
# ## Crops
#
# Each object of the first image as a picture of its own, for looking through or for another program.

# %%
write.write_crops(OUT / "crops" / first.stem, image, found.table)
print(len(list((OUT / "crops" / first.stem).iterdir())), "crops")
