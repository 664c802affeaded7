#!/usr/bin/env bash
# The published training run of CLIP4Clip on MSVD, by the mean of the frames.
# Needs DATA_PATH and OUTPUT_PATH, as docs/commands.md explains. Further flags go through: bash scripts/train_clip4clip_msvd.sh --save_every 1000 --resume auto
set -euo pipefail
cd "$(dirname "$0")/.."
torchrun --nproc_per_node="${PROCESSES:-4}" --max-restarts="${RESTARTS:-0}" main_retrieval.py \
    --method clip4clip --sim_header meanP --linear_patch 2d --loose_type --freeze_layer_num 0 --slice_framepos 2 \
    --do_train 1 --workers 2 --n_display 50 --epochs 5 --lr 1e-4 --coef_lr 1e-3 --batch_size 128 --batch_size_val 16 \
    --anno_path "${DATA_PATH}/MSVD" --video_path "${DATA_PATH}/MSVD/MSVD_Videos" --datatype msvd \
    --max_words 32 --max_frames 12 --video_framerate 1 --base_encoder ViT-B/32 --output_dir "${OUTPUT_PATH}" "$@"
