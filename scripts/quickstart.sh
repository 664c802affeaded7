#!/usr/bin/env bash
# From an empty machine to a table of results: sets up .venv, makes the built-in videos, pretrains a small CLIP, trains an
# estimator, retrieval, question answering and captioning, evaluates them, makes an index for search, and draws one video's
# interactions.
#   bash scripts/quickstart.sh [--fast]      --fast: the same steps with less data
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
  "") output=output/quickstart data=data/shapes corpus=(--train 1200 --test 200 --captions 3) pretraining=(--steps 1000)
      epochs=2 estimator_epochs=4 question_epochs=2 caption_epochs=3 batch=64 questions=128 ;;
  --fast) output=output/quickstart-fast data=data/shapes-fast corpus=(--train 240 --test 48 --captions 3)
      pretraining=(--steps 300) epochs=2 estimator_epochs=2 question_epochs=2 caption_epochs=2 batch=32 questions=64 ;;
  *) echo "usage: bash scripts/quickstart.sh [--fast]" >&2; exit 2 ;;
esac

bash scripts/setup.sh
export HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=passive
[ -t 2 ] || export TQDM_MININTERVAL=30 # a log needs no moving bar
python=.venv/bin/python
clip=$data/tiny_clip.pt
videos=(--max_words 24 --max_frames 12 --workers 1 --augment none --frame_cache "$output/frames"
  --anno_path "$data/anns" --video_path "$data/MSRVTT_Videos" --base_encoder "$clip" --recipe corrected)
question_data=(--max_words 24 --max_frames 12 --num_thread_reader 1 --frame_cache "$output/frames"
  --base_encoder "$clip" --recipe corrected --train_csv "$data/qa/train.jsonl" --val_csv "$data/qa/test.jsonl"
  --data_path "$data/qa/train_ans2label.json" --features_path "$data/MSRVTT_Videos")
question_training=(--do_train --epochs "$question_epochs" --batch_size "$questions" --questions_per_clip 16
  --batch_size_val 256 --lr 1e-3 --coef_lr 0.3 --n_display 10)
caption_data=(--max_words 26 --max_frames 12 --workers 1 --augment none --frame_cache "$output/frames" --datatype csv
  --anno_path "$data/captions" --video_path "$data/MSRVTT_Videos" --recipe corrected)
caption_training=(--do_train 1 --epochs "$caption_epochs" --batch_size 15 --label_smoothing 0 --length_exponent 0
  --retrieval_weight 0 --lr 1e-3 --coef_lr 0.3 --n_display 40)
training=(--do_train 1 --epochs "$epochs" --batch_size "$batch" --lr 1e-3 --coef_lr 0.3 --n_display 40)

steps=$(grep -c '^step "' "$0") current=0
step() { printf '\n== step %d of %d: %s\n' "$((current += 1))" "$steps" "$*"; }

step "videos of moving shapes, captions and questions"
$python scripts/make_shapes.py --output "$data" "${corpus[@]}"

step "a small CLIP, pretrained on pictures of shapes"
[ -f "$clip" ] || OMP_NUM_THREADS=1 $python -m torch.distributed.run --nproc_per_node 2 \
  scripts/pretrain_clip.py --output "$clip" "${pretraining[@]}"

step "zero-shot: the small CLIP without training, equal weights of words and frames"
$python main_retrieval.py --do_eval 1 "${videos[@]}" --interaction mean --agg_module None --output_dir "$output/zero_shot"

step "interaction only: weighted word-frame interaction, no levels, no Banzhaf"
$python main_retrieval.py "${training[@]}" "${videos[@]}" --num_levels 1 --skl 0 --kl 0 --output_dir "$output/interaction"

step "estimator of the Banzhaf interaction"
$python banzhaf_estimator.py --do_train 1 --network ranked --epochs "$estimator_epochs" --batch_size "$batch" --lr 1e-2 \
  --weight_decay 0 "${videos[@]}" --output_dir "$output/estimator"

levels=(--kl 2 --skl 1 --rate 0.4 0.3 0.3)
step "HBI: three levels, the estimator as teacher"
$python main_retrieval.py "${training[@]}" "${videos[@]}" "${levels[@]}" \
  --estimator "$(ls "$output"/estimator/pytorch_model.bin.best.*)" --output_dir "$output/hbi"

step "HBI, the exact interaction as teacher"
$python main_retrieval.py "${training[@]}" "${videos[@]}" "${levels[@]}" --teacher exact --output_dir "$output/hbi_exact"

step "questions about videos: entity level only"
$python main_vqa.py "${question_training[@]}" "${question_data[@]}" --num_levels 1 --rate 1 0 0 --skl 0 --kl 0 \
  --output_dir "$output/vqa_entity"

step "questions about videos: HBI, three levels, the exact interaction as teacher"
$python main_vqa.py "${question_training[@]}" "${question_data[@]}" --teacher exact --output_dir "$output/vqa"

best=$(ls "$output"/hbi_exact/pytorch_model.bin.best.*)
step "captions: entity level only"
$python main_captioning.py "${caption_training[@]}" "${caption_data[@]}" --init_model "$best" --num_levels 1 \
  --output_dir "$output/captions_entity"

step "captions: three levels"
$python main_captioning.py "${caption_training[@]}" "${caption_data[@]}" --init_model "$best" \
  --output_dir "$output/captions"
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
