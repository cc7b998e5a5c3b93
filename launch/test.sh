#!/usr/bin/env bash
# The tests, with the coverage of seg/, which must reach 90 %:
#     bash launch/test.sh
# Arguments go to pytest, and then no coverage is asked for:
#     bash launch/test.sh -m slow
#     bash launch/test.sh tests/predict -x -n 0
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/venv.sh train,dev

# A worker takes a core, and 2 GiB where it loads TensorFlow and MLflow.
workers="$(nproc 2>/dev/null || echo 2)"
workers=$((workers > 4 ? 4 : workers))
options=(-n "$workers" --dist=loadfile)
if [ $# -eq 0 ]; then
  options+=(--cov=seg --cov-report=term --cov-fail-under=90)
fi
exec .venv/bin/python -m pytest "${options[@]}" "$@"
