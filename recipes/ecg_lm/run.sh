#!/bin/sh
# All phases of ECG-LM (Yang et al. 2024). Each command can also be run alone.
#
#     PTB_XL=... PTB_XL_PLUS=... ECG_QA=... HEALTH_CARE_MAGIC=... LLM=... TRANSLATOR=... sh recipes/ecg_lm/run.sh
#
# --smoke uses tiny models and simulated ECGs, to check that everything runs. Ablations: --no-encoder-pretraining and
# --no-data-expansion of the paper (Table 5), --no-feature-sentences.
set -eu
cd "$(dirname "$0")/../.."
recipe=recipes/ecg_lm smoke=false data=data base=outputs/ecg_lm ablation=
pretrain_encoder=true encoder_run= feature_sentences=true data_expansion=1
for option in "$@"; do
    case $option in
        --smoke) smoke=true base=${SMOKE_OUTPUT:-outputs/ecg_lm_smoke} data=$base/data ;;
        --no-encoder-pretraining) pretrain_encoder=false ablation=$ablation-no-encoder-pretraining ;;
        --no-feature-sentences) feature_sentences=false ablation=$ablation-no-feature-sentences ;;
        --no-data-expansion) data_expansion=0 ablation=$ablation-no-data-expansion ;;
        *) echo "run.sh: unknown option $option; the first lines of $0 list them" >&2; exit 2 ;;
    esac
done
out=$base$ablation encoder=$base/encoder
started=$(date +%s)
run() { printf '\n$ %s\n' "$*"; "$@"; }
# Skips steps whose output exists already, from an interrupted run or from a run on the same data.
make() { target=$1; shift; [ -e "$target" ] || run "$@"; }

if $smoke; then
    fold=1 train="--use_cpu true --bf16 false --logging_steps 5 --save_strategy no --gradient_accumulation_steps 1"
    make $data/ptb_xl elm-hf prepare simulated_reports --num-recordings 48 --seconds 10 --output $data/ptb_xl
    make $data/ecg_qa elm-hf prepare simulated_qa --num-recordings 32 --seconds 10 --output $data/ecg_qa
    make $data/health_care_magic elm-hf prepare health_care_magic --source $recipe/smoke --output $data/health_care_magic
    make $data/ecg_lm.parquet elm-hf describe $data/ecg_qa --output $data/ecg_lm.parquet
    encoder_options="--encoder_config $recipe/smoke/encoder.json --use_cpu true --num_train_epochs 1
        --per_device_train_batch_size 8 --save_strategy no"
    elm=elm && $pretrain_encoder || elm=elm_new_encoder
    llm="--config $recipe/smoke/$elm.json --tokenizer-dataset $data/ecg_qa --vocab-size 500"
    align_options="$train --num_train_epochs 2" tune_options="$train --max_steps 20 --use_peft false"
    evaluate_options="--limit 24 --occlusions 0 --condition ecg --condition none" tasks="--task $recipe/smoke/rhythm.json"
else
    fold=official encoder_options= align_options= tune_options= evaluate_options= tasks=
    make $data/ptb_xl elm-hf prepare ptb_xl --source "$PTB_XL" --output $data/ptb_xl
    make $data/ecg_qa elm-hf prepare ecg_qa --source "$ECG_QA" --records $data/ptb_xl --output $data/ecg_qa
    make $data/health_care_magic \
        elm-hf prepare health_care_magic --source "$HEALTH_CARE_MAGIC" --output $data/health_care_magic
    make $data/translations.csv elm-hf translate $data/ecg_qa --output $data/translations.csv --translator "$TRANSLATOR"
    make $data/ecg_lm.parquet elm-hf describe $data/ecg_qa --output $data/ecg_lm.parquet --ptb-xl "$PTB_XL" \
        --ptb-xl-plus "$PTB_XL_PLUS" --translations $data/translations.csv
    llm="--llm $LLM"
    $pretrain_encoder || llm="$llm --config $recipe/new_encoder.json"
fi

# 1. Pre-training of the encoder.
if $pretrain_encoder; then
    encoder_run=$encoder,
    make $encoder/costs.json accelerate launch -m elm_hf.pretrain --config $recipe/1_encoder.yaml \
        --dataset $data/ptb_xl --held_out_dataset $data/ecg_qa --fold $fold --output_dir $encoder $encoder_options
else
    encoder=ecg_resnet
fi
# 2-4. Alignment on descriptions, with data expansion by leaving out leads. An ECG is one token.
make $out/elm elm-hf create $out/elm $llm --encoder $encoder --normalization none --num-ecg-tokens 1
make $out/aligned/costs.json accelerate launch -m elm_hf.training.sft --config $recipe/2_alignment.yaml \
    --model_name_or_path $out/elm --dataset $data/ecg_qa --fold $fold --descriptions $data/ecg_lm.parquet \
    --feature_sentences $feature_sentences --data_expansion $data_expansion --output_dir $out/aligned $align_options
# 5. Fine-tuning on questions and dialogues.
make $out/trained/costs.json accelerate launch -m elm_hf.training.sft --config $recipe/5_finetuning.yaml \
    --model_name_or_path $out/aligned --dataset $data/ecg_qa $data/health_care_magic --fold $fold \
    --output_dir $out/trained $tune_options
# 6. Evaluation, and comparison with the paper.
run elm-hf zero-shot $out/aligned --dataset $data/ecg_qa --fold $fold --output $out/aligned/report $tasks
run elm-hf zero-shot $out/aligned --dataset $data/ecg_qa --fold $fold --output $out/aligned/report_ecg_lm $tasks \
    --prompt ecg_lm --descriptions $data/ecg_lm.parquet
run elm-hf evaluate $out/trained --dataset $data/ecg_qa --fold $fold --output $out/trained/report $evaluate_options
run python $recipe/compare_with_paper.py $out
run elm-hf costs "ECG-LM=$encoder_run$out/aligned,$out/trained"

printf '\nFinished in %s seconds.\n' "$(($(date +%s) - started))"
