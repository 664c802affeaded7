#!/usr/bin/env bash
# The golden cases and the checks that need a GPU, in about ten minutes. Further arguments go to pytest.
#   bash scripts/test_gpu.sh [--device cpu] [...]      cpu: those that run without a GPU, in small sizes
set -euo pipefail
cd "$(dirname "$0")/.."

device=cuda
if [ "${1:-}" = --device ]; then
  device=${2:?test_gpu.sh: --device cpu or cuda}
  shift 2
fi
bash scripts/setup.sh demo dev
export HF_HUB_OFFLINE=1 HBI_TEST_DEVICE="$device"
if [ "$device" != cpu ] && ! .venv/bin/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "test_gpu.sh: PyTorch sees no GPU; give --device cpu, or install a CUDA build (docs/install.md)" >&2
  exit 2
fi
.venv/bin/python -m pytest -q -rs tests/test_golden.py tests/gpu "$@"
