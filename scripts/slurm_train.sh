#!/usr/bin/env bash
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
# Train on one machine or many under Slurm: one task a GPU, and the job goes back into the queue when its time is over.
#
#   sbatch [--nodes=N --ntasks-per-node=GPUS] scripts/slurm_train.sh main_retrieval.py --do_train 1 ... --output_dir DIR
#
# Slurm sends USR1 five minutes before the end, and TERM on pre-emption. The run saves its state after the step it is
# in and ends with code 75; the requeued job resumes. --output_dir must be on a disk that all machines share.
set -uo pipefail

MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
MASTER_PORT="$((20000 + SLURM_JOB_ID % 20000))"
export MASTER_ADDR MASTER_PORT

trap : TERM USR1 # what stops the tasks does not stop this shell, which has to requeue the job
# shellcheck disable=SC2016 # the tasks expand these
srun --kill-on-bad-exit=1 bash -c \
    'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS exec "${PYTHON:-python}" "$@"' \
    task "$@" --resume auto
code=$?
case $code in
75 | 138 | 143) scontrol requeue "$SLURM_JOB_ID" ;; # saved, or ended by the signal outside of training
esac
exit "$code"
