#!/usr/bin/env bash
# Installs seg on a rented host: bash launch/cloud/setup.sh cuda|tpu
# The environment is ~/seg; where it stands already, this takes seconds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
extra="${1:?usage: bash launch/cloud/setup.sh cuda|tpu}"
export PATH="$HOME/.local/bin:$PATH" # SkyPilot keeps its uv there

# The hosts' own Python may be older than 3.11; uv brings one.
command -v uv >/dev/null || python3 -m pip install --quiet --user uv
[ -x "$HOME/seg/bin/python" ] || uv venv --quiet --python 3.11 "$HOME/seg"
uv pip install --quiet --python "$HOME/seg/bin/python" \
  --constraint launch/constraints.txt --editable ".[train,$extra]"
