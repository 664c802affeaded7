#!/usr/bin/env bash
# Runs the tests with the oldest and with the newest torch that requirements.txt allows, each in a fresh environment in
# a temporary folder. For releases: takes 7 GB in TMPDIR and the time of an installation and of all tests, twice.
# Arguments go to pytest: bash scripts/test_versions.sh -m "not slow"
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1

touch "$work/newest"
sed -nE 's/^(torch|torchvision)>=([0-9]+\.[0-9]+),.*/\1==\2.0/p' requirements.txt >"$work/oldest"
if [ "$(wc -l <"$work/oldest")" != 2 ]; then
  echo "test_versions: requirements.txt gives no ranges of torch and torchvision" >&2
  exit 2
fi

for end in oldest newest; do
  "${PYTHON:-python3}" -m venv --clear "$work/venv"
  "$work/venv/bin/python" -m pip install -qq --disable-pip-version-check --constraint "$work/$end" \
    -r requirements.txt -r requirements-demo.txt -r requirements-dev.txt
  echo "== $end: $("$work/venv/bin/python" -c \
    'import torch, torchvision; print("torch", torch.__version__, "torchvision", torchvision.__version__)')"
  "$work/venv/bin/python" -m pytest -n auto --dist loadfile --no-loadscope-reorder "$@"
done
