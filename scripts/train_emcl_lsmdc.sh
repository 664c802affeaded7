#!/usr/bin/env bash
# The published training run of EMCL on LSMDC.
# Needs DATA_PATH and OUTPUT_PATH, as docs/commands.md explains. Further flags go through: bash scripts/train_emcl_lsmdc.sh --save_every 1000 --resume auto
set -euo pipefail
cd "$(dirname "$0")/.."
torchrun --nproc_per_node="${PROCESSES:-4}" --max-restarts="${RESTARTS:-0}" main_retrieval.py \
    --method emcl --do_train 1 --workers 8 --n_display 10 --epochs 5 --lr 1e-4 --coef_lr 1e-3 --batch_size 128 --batch_size_val 128 \
    --anno_path "${DATA_PATH}/LSMDC" --video_path "${DATA_PATH}/LSMDC/LSMDC_Videos" --datatype lsmdc \
    --max_words 32 --max_frames 12 --video_framerate 1 --output_dir "${OUTPUT_PATH}" "$@"
