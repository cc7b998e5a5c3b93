#!/usr/bin/env bash
# Trains on a cluster with SLURM, one task for each GPU, as JAX wants it:
#
#   .venv/bin/python -m launch.prepare --experiment=experiments/demo.py  # once
#   sbatch --nodes=2 --gpus-per-node=4 --ntasks-per-node=4 \
#     launch/cloud/slurm.sh launch.train --experiment=experiments/demo.py \
#     --train.batch_size=64 --workdir=/scratch/me/runs/demo
#
# The checkout, its .venv and the workdir lie on a disk that all nodes share.
# Two minutes before the time is up, the training saves and exits 33: the job
# is queued again, and goes on. One that is cancelled is not.
#SBATCH --job-name=seg
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
#SBATCH --output=seg-%j.txt
set -uo pipefail
# SLURM runs a copy of this file: the checkout is where sbatch was called.
cd "${SEG_CHECKOUT:-$SLURM_SUBMIT_DIR}" || exit 2
module="${1:?usage: sbatch launch/cloud/slurm.sh launch.train --experiment=...}"
shift
# Tasks train together; those of a sweep share its trials instead.
[ "${SLURM_NTASKS:-1}" -gt 1 ] && [ "$module" = launch.train ] &&
  set -- "$@" --mesh.distributed=true

# SLURM tells this shell (B:); srun passes a signal on to every task.
announced=
trap 'announced=yes; kill -TERM "$!"' TERM
# newer ones give the tasks one core each, unless told again
srun --kill-on-bad-exit=0 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
  .venv/bin/python -m "$module" "$@" &
wait "$!"
status=$?
while kill -0 "$!" 2>/dev/null; do # the signal ended that wait early
  wait "$!"
  status=$?
done
if [ "$status" -eq 33 ] && [ "$announced" ]; then
  case "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" in
    CANCELLED | COMPLETING) ;; # it was cancelled just then
    *) scontrol requeue "$SLURM_JOB_ID" ;;
  esac
fi
exit "$status"
