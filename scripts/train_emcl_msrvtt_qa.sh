#!/usr/bin/env bash
# The published training run of EMCL on MSRVTT-QA.
# Needs DATA_PATH and OUTPUT_PATH, as docs/commands.md explains. Further flags go through: bash scripts/train_emcl_msrvtt_qa.sh --save_every 1000 --resume auto
set -euo pipefail
cd "$(dirname "$0")/.."
torchrun --nproc_per_node="${PROCESSES:-2}" --max-restarts="${RESTARTS:-0}" main_vqa.py \
    --method emcl --do_train --num_thread_reader=0 --epochs=5 --batch_size=32 --n_display=50 \
    --train_csv data/MSR-VTT/qa/train.jsonl --val_csv data/MSR-VTT/qa/test.jsonl \
    --data_path data/MSR-VTT/qa/train_ans2label.json --features_path "${DATA_PATH}/MSRVTT_Videos" \
    --lr 1e-4 --coef_lr 1e-3 --max_words 32 --max_frames 12 --batch_size_val 16 --datatype msrvtt \
    --expand_msrvtt_sentences --feature_framerate 1 --freeze_layer_num 0 --slice_framepos 2 --loose_type \
    --linear_patch 2d --output_dir "${OUTPUT_PATH}" "$@"
