#!/usr/bin/env bash
# The published training run of the estimator.
# Needs DATA_PATH and OUTPUT_PATH, as docs/commands.md explains. Further flags go through: bash scripts/train_estimator.sh --save_every 1000 --resume auto
set -euo pipefail
cd "$(dirname "$0")/.."
torchrun --nproc_per_node="${PROCESSES:-4}" --max-restarts="${RESTARTS:-0}" banzhaf_estimator.py \
    --do_train 1 --workers 8 --n_display 1 --epochs 10 --lr 1e-2 --coef_lr 1e-3 --batch_size 128 --batch_size_val 128 \
    --anno_path data/MSR-VTT/anns --video_path "${DATA_PATH}/MSRVTT_Videos" --datatype msrvtt \
    --max_words 24 --max_frames 12 --video_framerate 1 --output_dir "${OUTPUT_PATH}" "$@"
