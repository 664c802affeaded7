#!/usr/bin/env bash
# Print the network interface by which this machine and the head machine of a training reach each other.
#   bash scripts/network_interface.sh HEAD_ADDRESS
# By default gloo and NCCL use the interface of the host name, which is loopback if the name resolves to 127.0.1.1.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: bash scripts/network_interface.sh HEAD_ADDRESS" >&2; exit 2; }

device_of() { sed -n 's/.* dev \([^ ]*\).*/\1/p' | head -n 1; }

head=$(getent ahostsv4 "$1" | awk '{print $1; exit}' || true)
[ -n "$head" ] || { echo "network_interface.sh: $1: no IPv4 address; give one that every machine can reach" >&2; exit 2; }
interface=$(ip -o -4 route get "$head" 2>/dev/null | device_of || true)
if [ "$interface" = lo ]; then # this machine is the head: the interface that holds the address, else that of the default route
  interface=$(ip -o -4 address show to "$head" | awk '$2 != "lo" {print $2; exit}')
  [ -n "$interface" ] || interface=$(ip -o -4 route show default | device_of)
fi
[ -n "$interface" ] || { echo "network_interface.sh: no route to $1" >&2; exit 2; }
echo "$interface"
