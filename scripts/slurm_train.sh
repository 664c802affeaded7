#!/usr/bin/env bash
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
# Train on one machine or several under Slurm: one task per GPU; the job is requeued when its time is over.
#
#   sbatch [--nodes=N --ntasks-per-node=GPUS --gpus-per-node=GPUS] scripts/slurm_train.sh main_retrieval.py \
#     --do_train 1 ... --output_dir DIR
#
# Slurm sends USR1 five minutes before the end, and TERM on pre-emption. The run saves its state after the step it is
# in and ends with code 75; the requeued job resumes. --output_dir must be on a disk that all machines share.
set -uo pipefail

fail() { echo "slurm_train.sh: $1" >&2; exit 2; }
[[ ${SLURM_JOB_ID:-} =~ ^[0-9]+$ ]] || fail "SLURM_JOB_ID is not set: start it with sbatch"
[ -n "${SLURM_JOB_NODELIST:-}" ] || fail "SLURM_JOB_NODELIST is not set: start it with sbatch"
[ $# -gt 0 ] || fail "give an entry script and its flags"
cpus=${SLURM_CPUS_PER_TASK:-8}
[[ $cpus =~ ^[0-9]+$ ]] || fail "SLURM_CPUS_PER_TASK is $cpus, not a number"
tasks=${SLURM_NTASKS_PER_NODE:-1}
tasks=${tasks%%(*}
[[ $tasks =~ ^[0-9]+$ ]] || fail "SLURM_NTASKS_PER_NODE is $tasks, not a number"

MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
[[ $MASTER_ADDR =~ ^[A-Za-z0-9.:_-]+$ ]] || fail "no host name in SLURM_JOB_NODELIST $SLURM_JOB_NODELIST"
MASTER_PORT="$((20000 + SLURM_JOB_ID % 20000))"
export MASTER_ADDR MASTER_PORT LOCAL_WORLD_SIZE="$tasks"

trap : TERM USR1 # what stops the tasks does not stop this shell, which has to requeue the job
# Since Slurm 22.05 srun does not inherit --cpus-per-task.
# shellcheck disable=SC2016 # the tasks expand these
srun --kill-on-bad-exit=1 --cpus-per-task="$cpus" --cpu-bind=cores bash -c '
    interface=$(bash scripts/network_interface.sh "$MASTER_ADDR") || interface=
    if [ -n "$interface" ]; then
        export GLOO_SOCKET_IFNAME="${GLOO_SOCKET_IFNAME:-$interface}" NCCL_SOCKET_IFNAME="${NCCL_SOCKET_IFNAME:-$interface}"
    fi
    RANK="$SLURM_PROCID" LOCAL_RANK="$SLURM_LOCALID" WORLD_SIZE="$SLURM_NTASKS" exec "${PYTHON:-python}" "$@"' \
    task "$@" --resume auto
code=$?
case $code in
75 | 138 | 143) scontrol requeue "$SLURM_JOB_ID" ;; # saved, or ended by the signal outside of training
esac
exit "$code"
