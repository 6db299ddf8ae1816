#!/bin/sh
# Trains an ECG-language model on PTB-XL (Wagner et al. 2020) and evaluates it on fold 10: questions from the labels, an
# encoder that learned the labels, alignment, fine-tuning, and a report with all controls.
#
#     SOURCE=path/to/ptb-xl sh recipes/ptb_xl/run.sh SIZE [-- OPTIONS OF elm-hf train ...]
#
# SOURCE is the download of physionet.org/content/ptb-xl/1.0.3, of which the tables and records100 are read. SIZE is
#     small    an LLM of 2 million parameters and an encoder of 1 million, from scratch, on a CPU (a quarter of an hour of a core)
#     medium   the same LLM, trained longer, with both stages of the encoder of recipes/ptb_xl_benchmark
#              and measured values (two hours of a core)
#     smollm2  SmolLM2-135M-Instruct with LoRA, encoder and measured values as for medium, on a CPU (three hours of a core
#              with bfloat16 instructions; on another add -- --bf16 false)
#     full     an LLM of 1 billion parameters or more with LoRA, on a GPU
#     smoke    tiny models and simulated ECGs, to check that everything runs
# LLM names another LLM or its folder, ENCODER an encoder that is already trained, DATA the dataset (default:
# data/ptb_xl_qa), OUTPUT the folder of the results. An interrupted run continues. Settings were chosen on fold 9.
set -eu
cd "$(dirname "$0")/../.."
here=recipes/ptb_xl size=${1:?name a size: small, medium, smollm2, full or smoke}
shift
[ "${1:-}" != -- ] || shift
out=${OUTPUT:-outputs/ptb_xl/$size} data=${DATA:-data/ptb_xl_qa}
ecg_tokens="--num-ecg-tokens 37 --measurements general,noise,p_mv_II,p_mv_V1" # 16 of the encoder, 21 measured values
encoder_config=recipes/ptb_xl_benchmark/encoder.yaml whole_ecgs=recipes/ptb_xl_benchmark/whole_ecgs.yaml encoder_options=
fold=official align= train_options= cpu="--use_cpu true --bf16 false" limit=2000
new_llm="--config $here/small.json --tokenizer-dataset $data --tokenizer-fold official --vocab-size 768"
case $size in
    small)
        encoder_config=$here/small_encoder.yaml whole_ecgs= train=$here/small.yaml llm=$new_llm
        ;;
    medium)
        train=$here/small.yaml train_options="--max_steps 3000 --cache_encoder true"
        llm="$new_llm $ecg_tokens"
        ;;
    smollm2)
        train=$here/smollm2.yaml train_options="--bf16 true" limit=500
        llm="--llm ${LLM:-HuggingFaceTB/SmolLM2-135M-Instruct} --dtype float32 $ecg_tokens"
        ;;
    full)
        align=$here/align.yaml train=$here/lora.yaml cpu=
        llm="--llm ${LLM:-meta-llama/Llama-3.2-1B-Instruct} $ecg_tokens"
        ;;
    smoke)
        fold=1 data=$out/data encoder_config=$here/small_encoder.yaml whole_ecgs= align=$here/align.yaml train=$here/small.yaml limit=24
        encoder_options="--encoder_config $here/smoke/encoder.json --num_train_epochs 1"
        llm="--config $here/smoke/elm.json --tokenizer-dataset $data --vocab-size 500"
        ;;
    *) echo "run.sh: unknown size $size; expected small, medium, smollm2, full or smoke" >&2; exit 2 ;;
esac
started=$(date +%s)
run() { printf '\n$ %s\n' "$*"; "$@"; }
# Skips steps whose output exists already.
make() { target=$1; shift; [ -e "$target" ] || run "$@"; }

if [ $size = smoke ]; then
    make "$data" elm-hf prepare simulated_qa --num-recordings 40 --seconds 4 --sampling-rate 100 --output "$data"
elif [ ! -e "$data" ]; then
    run elm-hf prepare ptb_xl_qa --source "${SOURCE:?name the download of PTB-XL: SOURCE=... sh $0 $size}" \
        --source-rate 100 --sampling-rate 100 --num-folds 0 --output "$data"
fi
encoder=${ENCODER:-$out/encoder}
if [ -z "${ENCODER:-}" ]; then
    make "$encoder/costs.json" accelerate launch -m elm_hf.pretrain --config $encoder_config \
        --dataset "$data" --fold $fold --output_dir "$encoder" $cpu $encoder_options
    if [ -n "$whole_ecgs" ]; then
        make "$out/encoder_10s/costs.json" accelerate launch -m elm_hf.pretrain --config $whole_ecgs --encoder "$encoder" \
            --dataset "$data" --fold $fold --output_dir "$out/encoder_10s" $cpu
        encoder=$out/encoder_10s
    fi
fi
make "$out/elm" elm-hf create "$out/elm" $llm --encoder "$encoder"
start=$out/elm
if [ -n "$align" ]; then
    make "$out/aligned/costs.json" accelerate launch -m elm_hf.training.sft --config $align --dataset "$data" --fold $fold \
        --model_name_or_path "$start" --output_dir "$out/aligned" $cpu "$@"
    start=$out/aligned
fi
make "$out/trained/costs.json" accelerate launch -m elm_hf.training.sft --config $train --dataset "$data" --fold $fold \
    --model_name_or_path "$start" --output_dir "$out/trained" $cpu $train_options "$@"
make "$out/report/report.json" elm-hf evaluate "$out/trained" --dataset "$data" --fold $fold --limit $limit \
    --occlusions 4 --calibration --counterfactuals --output "$out/report" --update-card
run elm-hf costs "$size=$out/trained"
if [ -z "${ENCODER:-}" ] && [ $size != smoke ]; then
    for split in validation test; do
        make "$out/classifier_$split/report.json" elm-hf evaluate-encoder "$encoder" --dataset "$data" --fold $fold \
            --split $split --output "$out/classifier_$split"
    done
    run python $here/compare_with_classifier.py "$out/report" --dataset "$data" --validation "$out/classifier_validation" \
        --tested "$out/classifier_test"
fi

printf '\nFinished in %s seconds. The report is %s.\n' "$(($(date +%s) - started))" "$out/report/report.md"
