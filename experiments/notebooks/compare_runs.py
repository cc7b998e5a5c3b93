# %% [markdown]
# # Compare runs
#
# What MLflow has of an experiment: the scores beside each other, what differed, the curves,
# and what each run made of the same images.

# %%
import os
import pathlib

DATABASE = pathlib.Path("../../mlflow.db")  # that of the checkout
URI = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DATABASE}"
EXPERIMENTS = []  # names; none of them: all that there are
SCORES = ["test/dice", "test/ap50", "val/dice", "val/ap50"]

# %% [markdown]
# ## The runs

# %%
import matplotlib.pyplot as plt

from seg.train.tracking import upload

mlflow = upload.library()
assert not URI.startswith("sqlite") or pathlib.Path(URI[10:]).exists(), URI
mlflow.set_tracking_uri(URI)
known = [each.name for each in mlflow.search_experiments()]
runs = mlflow.search_runs(experiment_names=EXPERIMENTS or known)
scores = [name for name in SCORES if f"metrics.{name}" in runs]
assert scores, f"no scored runs in {URI}; its experiments: {', '.join(known)}"
runs = runs.dropna(subset=[f"metrics.{name}" for name in scores], how="all")
runs = runs.sort_values(f"metrics.{scores[0]}", ascending=False)
runs = runs.set_index("tags.mlflow.runName")
table = runs[[f"metrics.{name}" for name in scores]]
table.columns = scores
print(len(table), "runs, the best:", table.index[0])
table.style.format("{:.3f}").highlight_max(color="#bfe3d0")

# %% [markdown]
# ## What differed

# %%
params = runs[[name for name in runs if name.startswith("params.")]]
differ = [name for name in params if params[name].nunique(dropna=False) > 1]
params[differ].rename(columns=lambda name: name.removeprefix("params."))

# %% [markdown]
# ## Scores

# %%
shown = table.head(12)[::-1]
shown.plot.barh(figsize=(9, 1 + 0.5 * len(shown)), width=0.8)
plt.xlim(max(0, float(shown.min().min()) - 0.05), 1)
plt.ylabel("")
plt.legend(loc="lower right")
plt.show()

# %% [markdown]
# ## Curves

# %%
client = mlflow.MlflowClient()
for name, run in list(runs.iterrows())[:6]:
    points = client.get_metric_history(run.run_id, "val/dice")
    points = sorted((point.step, point.value) for point in points)
    if points:
        plt.plot(*zip(*points, strict=True), marker="o", label=name)
plt.xlabel("step")
plt.ylabel("val/dice")
plt.legend()
plt.show()

# %% [markdown]
# ## The same images

# %%
from IPython import display

for name, run in list(runs.iterrows())[:3]:
    files = client.list_artifacts(run.run_id, "overlays")
    for file in [f for f in files if "first_1" in f.path]:
        path = mlflow.artifacts.download_artifacts(
            run_id=run.run_id, artifact_path=file.path
        )
        print(name, file.path)
        display.display(display.Image(path, width=900))
