#!/usr/bin/env bash
# What every host of a target runs; the task file names the variables:
#   ARGS         flags of the command, quoted as for a shell
#   WORKDIR      folder of the run in /checkpoints
#   COMMAND      launch.train or launch.sweep
#   TILES        a pack of launch.prepare in /data, in place of raw images
#   DISTRIBUTED  true: the hosts train together
# Records are prepared on each host's own disk, where the run lies too, and is
# copied to /checkpoints. The command's exit status is this one's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PATH="$HOME/seg/bin:$PATH"
eval "set -- $ARGS"

command=(python -m "$COMMAND" "$@" "--workdir=$HOME/runs/$WORKDIR"
  "--mesh.distributed=$DISTRIBUTED")
if [ -n "$TILES" ]; then
  command+=("--tiles=/data/$TILES")
elif [ "$COMMAND" = launch.train ]; then
  python -m launch.prepare "$@"
fi
exec python -m launch.cloud.mirror \
  "$HOME/runs/$WORKDIR" "/checkpoints/$WORKDIR" -- "${command[@]}"
