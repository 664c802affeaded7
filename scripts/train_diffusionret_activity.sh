#!/usr/bin/env bash
# The first stage of the training run of DiffusionRet on ActivityNet Captions; only the sizes are published.
# Needs DATA_PATH and OUTPUT_PATH, as docs/commands.md explains. Further flags are passed on: bash scripts/train_diffusionret_activity.sh --save_every 1000 --resume auto
set -euo pipefail
cd "$(dirname "$0")/.."
torchrun --nproc_per_node="${PROCESSES:-4}" --max-restarts="${RESTARTS:-0}" main_retrieval.py \
    --do_train 1 --workers 8 --n_display 50 --epochs 5 --lr 1e-4 --coef_lr 1e-3 --batch_size 128 --batch_size_val 128 \
    --anno_path "${DATA_PATH}/ActivityNet" --video_path "${DATA_PATH}/ActivityNet/Activity_Videos" --datatype activity \
    --max_words 64 --max_frames 64 --video_framerate 1 \
    --method diffusionret --stage discrimination --output_dir "${OUTPUT_PATH}" "$@"
