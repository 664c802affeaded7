#!/usr/bin/env bash
# Puts small mistakes into models, dataloaders and utils one at a time, in a copy, and says which the tests do not notice:
#   bash scripts/mutation.sh [FILES] [--most 20]
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh demo dev mutation

export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
exec .venv/bin/python scripts/mutation.py "$@"
