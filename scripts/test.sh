#!/usr/bin/env bash
# Lint, type check, duplicate check and all tests, offline once installed. Arguments go to pytest: bash scripts/test.sh -m "not slow"
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh demo dev

export HF_HUB_OFFLINE=1
export OMP_NUM_THREADS=1 # the tests run in parallel
.venv/bin/ruff check .
.venv/bin/ty check
.venv/bin/pylint .
# One worker for each core, and one more, since some tests wait.
workers=$(.venv/bin/python -c 'import os; print(os.cpu_count() + 1)')
.venv/bin/python -m pytest -n "$workers" --dist loadfile --no-loadscope-reorder "$@"
