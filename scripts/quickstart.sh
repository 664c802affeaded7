#!/usr/bin/env bash
# From an empty machine to a table of results: sets up .venv, makes the built-in videos, pretrains a small CLIP, trains an
# estimator, retrieval, question answering and captioning, evaluates them, makes an index for search, and draws one video's
# interactions.
#   bash scripts/quickstart.sh [--fast]      --fast: the same steps with less data, of fewer classes
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
  "") output=output/quickstart data=data/shapes corpus=(--train 1200 --test 200 --captions 3) pretraining=(--steps 1000)
      epochs=2 batch=64 estimator_epochs=4 questions=(--epochs 2 --batch_size 128)
      captions=(--epochs 3 --batch_size 15 --lr 1e-3 --coef_lr 0.3) ;;
  --fast) output=output/quickstart-fast data=data/shapes-fast corpus=(--train 480 --test 48 --captions 3 --classes few)
      pretraining=(--steps 500 --classes few --width 64) epochs=2 batch=32 estimator_epochs=2
      questions=(--epochs 3 --batch_size 16) captions=(--epochs 2 --batch_size 6 --lr 3e-3 --coef_lr 0.1) ;;
  *) echo "usage: bash scripts/quickstart.sh [--fast]" >&2; exit 2 ;;
esac

bash scripts/setup.sh
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 # models this small gain little from a second thread
[ -t 2 ] || export TQDM_MININTERVAL=30 # a log needs no moving bar
python=.venv/bin/python
clip=$data/tiny_clip.pt
videos=(--max_words 24 --max_frames 12 --workers 1 --augment none --frame_cache "$output/frames"
  --anno_path "$data/anns" --video_path "$data/MSRVTT_Videos" --base_encoder "$clip" --recipe corrected)
question_data=(--max_words 24 --max_frames 12 --num_thread_reader 1 --frame_cache "$output/frames"
  --base_encoder "$clip" --recipe corrected --train_csv "$data/qa/train.jsonl" --val_csv "$data/qa/test.jsonl"
  --data_path "$data/qa/train_ans2label.json" --features_path "$data/MSRVTT_Videos")
question_training=(--do_train "${questions[@]}" --questions_per_clip 16 --batch_size_val 256 --lr 1e-3 --coef_lr 0.3
  --n_display 40)
caption_data=(--max_words 26 --max_frames 12 --workers 1 --augment none --frame_cache "$output/frames" --datatype csv
  --anno_path "$data/captions" --video_path "$data/MSRVTT_Videos" --recipe corrected)
caption_training=(--do_train 1 "${captions[@]}" --label_smoothing 0 --length_exponent 0 --retrieval_weight 0 --n_display 40)
training=(--do_train 1 --epochs "$epochs" --batch_size "$batch" --lr 1e-3 --coef_lr 0.3 --n_display 40)
levels=(--kl 2 --skl 1 --rate 0.4 0.3 0.3)

train_interaction() {
  $python main_retrieval.py "${training[@]}" "${videos[@]}" --num_levels 1 --skl 0 --kl 0 --output_dir "$output/interaction"
}
train_estimator() {
  $python banzhaf_estimator.py --do_train 1 --network ranked --epochs "$estimator_epochs" --batch_size "$batch" --lr 1e-2 \
    --weight_decay 0 "${videos[@]}" --output_dir "$output/estimator"
}
train_hbi() {
  $python main_retrieval.py "${training[@]}" "${videos[@]}" "${levels[@]}" \
    --estimator "$(ls "$output"/estimator/pytorch_model.bin.best.*)" --output_dir "$output/hbi"
}
train_hbi_exact() {
  $python main_retrieval.py "${training[@]}" "${videos[@]}" "${levels[@]}" --teacher exact --output_dir "$output/hbi_exact"
}
train_vqa_entity() {
  $python main_vqa.py "${question_training[@]}" "${question_data[@]}" --num_levels 1 --rate 1 0 0 --skl 0 --kl 0 \
    --output_dir "$output/vqa_entity"
}
train_vqa() {
  $python main_vqa.py "${question_training[@]}" "${question_data[@]}" --teacher exact --output_dir "$output/vqa"
}
train_captions_entity() {
  $python main_captioning.py "${caption_training[@]}" "${caption_data[@]}" --init_model "$best" --num_levels 1 \
    --output_dir "$output/captions_entity"
}
train_captions() {
  $python main_captioning.py "${caption_training[@]}" "${caption_data[@]}" --init_model "$best" \
    --output_dir "$output/captions"
}

# Runs two commands at once; what the first prints comes when both have ended.
together() {
  local status=0
  (trap - INT && "$1") >"$output/first.log" 2>&1 &
  "$2" || status=$?
  wait $! || status=$?
  cat "$output/first.log" && rm "$output/first.log"
  return "$status"
}

steps=$(grep -c '^step "' "$0") current=0
step() { printf '\n== step %d of %d: %s\n' "$((current += 1))" "$steps" "$*"; }

step "videos of moving shapes, captions and questions"
$python scripts/make_shapes.py --output "$data" "${corpus[@]}"

step "a small CLIP, pretrained on pictures of shapes"
[ -f "$clip" ] || $python -m torch.distributed.run --nproc_per_node 2 \
  scripts/pretrain_clip.py --output "$clip" "${pretraining[@]}"

step "zero-shot: the small CLIP without training, equal weights of words and frames"
$python main_retrieval.py --do_eval 1 "${videos[@]}" --interaction mean --agg_module None --output_dir "$output/zero_shot"

step "interaction only: weighted word-frame interaction, no levels, no Banzhaf; and an estimator of the Banzhaf interaction"
together train_interaction train_estimator

step "HBI: three levels, with the estimator as teacher, and with the exact interaction"
together train_hbi train_hbi_exact

step "questions about videos: entity level only; and HBI, three levels, the exact interaction as teacher"
together train_vqa_entity train_vqa

best=$(ls "$output"/hbi_exact/pytorch_model.bin.best.*)
step "captions: entity level only, and three levels"
together train_captions_entity train_captions
$python scripts/score_stories.py "$output/captions_entity" "$output/captions"

step "an index of the videos, and a search in it"
$python scripts/search.py index "$data/MSRVTT_Videos" --checkpoint "$best" --index "$output/index" --recipe corrected \
  --rate 0.4 0.3 0.3 --max_words 24 --workers 1
$python scripts/search.py query "a big red circle moves left, then it spins" --index "$output/index" --top 3

step "results"
$python scripts/compare_runs.py "zero-shot=$output/zero_shot" "interaction only=$output/interaction" \
  "HBI=$output/hbi" "HBI, exact teacher=$output/hbi_exact" \
  "answers, entity level only=$output/vqa_entity" "answers, HBI=$output/vqa" \
  "captions, entity level only=$output/captions_entity" "captions, three levels=$output/captions" --output "$output/results.json"

step "the levels of one test video"
IFS=, read -r _ _ video caption < <(sed -n 2p "$data/anns/MSRVTT_JSFUSION_test.csv")
caption=$(sed -E 's/^"?([^"]*)"?,[a-z]*\r?$/\1/' <<<"$caption")
$python scripts/visualize.py --checkpoint "$best" --interaction exact \
  --video "$data/MSRVTT_Videos/$video.mp4" --caption "$caption" --output "$output/levels.png"
echo "$output/levels.png"
