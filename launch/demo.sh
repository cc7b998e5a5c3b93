#!/usr/bin/env bash
# From a fresh clone to a trained, evaluated model, on drawn images:
#     bash launch/demo.sh
# Flags of the experiment pass through (remove runs/demo first, which belongs
# to others): bash launch/demo.sh --train.epochs=2
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/venv.sh train
python="$PWD/.venv/bin/python"
experiment=--experiment=experiments/demo.py
workdir=runs/demo

"$python" -m launch.prepare "$experiment" "$@"
"$python" -m launch.train "$experiment" --workdir="$workdir" "$@"
"$python" -m launch.evaluate "$experiment" --workdir="$workdir" "$@"

# and the nuclei of a real image, by the model that comes along
"$PWD/.venv/bin/seg" predict experiments/pictures/nuclei.png \
  --out="$workdir/nuclei" --formats=labels,overlay,csv

if [ -n "${MLFLOW_TRACKING_URI:-}" ]; then
  look="on the MLflow server that MLFLOW_TRACKING_URI names"
else
  look="at http://127.0.0.1:5000 after
    MLFLOW_DISABLE_TELEMETRY=true .venv/bin/mlflow ui \\
        --backend-store-uri=sqlite:///mlflow.db"
fi
cat <<TEXT

The run, its scores and its overlays are $look
A real image, segmented by the model of nuclei that comes along:
    $workdir/nuclei/nuclei_overlay.png
Segment images of your own with it
    .venv/bin/seg predict IMAGES --out=out
or with the model of drawn nuclei that was just trained
    .venv/bin/seg predict IMAGES --model=$workdir --out=out
TEXT
