#!/usr/bin/env bash
# Train on several machines without a scheduler: run the same line on each of them.
#   bash scripts/torchrun_train.sh HEAD_ADDRESS MACHINES main_retrieval.py --do_train 1 ... --output_dir SHARED_FOLDER
#
# HEAD_ADDRESS is an IPv4 address of one of the machines that all can reach. PROCESSES per machine: one for each GPU by
# default. PORT (29400) must be open on the head. A machine that died is started with the same line; the others wait for
# it and resume from the last state. If the head died, stop the others and start all.
set -euo pipefail

fail() { echo "torchrun_train.sh: $1" >&2; exit 2; }
[ $# -gt 2 ] || fail "give the address of the head, the number of machines, an entry script and its flags"
head=$1 machines=$2
shift 2
[[ $machines =~ ^[1-9][0-9]*$ ]] || fail "$machines is no number of machines"

interface=$(bash "$(dirname "$0")/network_interface.sh" "$head")
own=$(ip -o -4 address show dev "$interface" | sed -n 's/.* inet \([0-9.]*\).*/\1/p')
is_host=false
if grep -qxF "$head" <<<"$own"; then is_host=true; fi
export GLOO_SOCKET_IFNAME="${GLOO_SOCKET_IFNAME:-$interface}" NCCL_SOCKET_IFNAME="${NCCL_SOCKET_IFNAME:-$interface}"
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 # a shared store keeps the keys of a machine that died (pytorch issue 135712)
exec "${PYTHON:-python}" -m torch.distributed.run --nnodes "$machines" --nproc-per-node "${PROCESSES:-auto}" \
  --max-restarts "${RESTARTS:-3}" --rdzv-backend c10d --rdzv-endpoint "$head:${PORT:-29400}" --rdzv-id hbi \
  --rdzv-conf "is_host=$is_host" --local-addr "$(head -n 1 <<<"$own")" "$@" --resume auto
