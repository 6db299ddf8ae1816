#!/bin/sh
# Compares ways of giving an ECG to an LLM, with the same questions and the same LLM, in one table of time, samples, tokens
# and scores.
#
#     LLM=meta-llama/Llama-3.2-1B-Instruct sh recipes/comparison/run.sh [--smoke] [RECIPE ...]
#
# All read 10 s. An ECG is about 2,300 tokens of ECG-Byte; Han et al. (2024) keep 1,024, which hold 3 to 6 s. In pictures a
# millimetre of ECG paper is small: 0.9 pixels at SigLIP's 224 x 224. --picture-size 512 gives it 2 pixels (PICTURE=512).
#
# Recipes (default: all). The others are compared with the first one:
#     two_stage               an encoder pre-trained on the same ECGs; then the projector and the LLM are trained as in
#                             LLaVA (Liu et al. 2023)
#     ecg_byte                ECG-Byte (Han et al. 2024): end to end with LoRA, frozen embeddings
#     linear, patch, conv     no encoder, only a projector
#     stacked_signal, image   a vision encoder (VISION, default: SigLIP) reads the signal or its picture
# The dataset data/ecg_qa is built as in recipes/ecg_lm. --smoke uses tiny models and simulated ECGs.
set -eu
cd "$(dirname "$0")/../.."
here=recipes/comparison smoke=false data=data/ecg_qa out=outputs/comparison
if [ "${1:-}" = --smoke ]; then
    smoke=true out=${SMOKE_OUTPUT:-outputs/comparison_smoke} data=${SMOKE_OUTPUT:-outputs/comparison_smoke}/data
    shift
fi
recipes=${*:-two_stage ecg_byte linear patch conv stacked_signal image}
run() { printf '\n$ %s\n' "$*"; "$@"; }
# Skips steps whose output exists already.
make() { target=$1; shift; [ -e "$target" ] || run "$@"; }

if $smoke; then
    make $data elm-hf prepare simulated_qa --num-recordings 24 --seconds 2 --output $data
    llm="--config $here/smoke/elm.json --tokenizer-dataset $data --vocab-size 500" seconds=2 tokens=10 merges=200
    tiny="--use_cpu true --bf16 false --max_steps 4 --gradient_accumulation_steps 1"
    encoder_tiny="--encoder_config $here/smoke/encoder.json --use_cpu true --bf16 false --max_steps 2
        --per_device_train_batch_size 8 --gradient_accumulation_steps 1"
    vision="--config $here/smoke/vision.json --tokenizer-dataset $data --vocab-size 500"
    evaluate="--limit 12 --occlusions 0 --condition ecg --condition none"
else
    llm="--llm ${LLM:?name an LLM: LLM=meta-llama/Llama-3.2-1B-Instruct sh $0}" seconds=10 tokens=50 merges=5000
    tiny= encoder_tiny= evaluate=
    vision="$llm --encoder ${VISION:-google/siglip-base-patch16-224} ${PICTURE:+--picture-size $PICTURE}"
fi

# train RUN CHECKPOINT CONFIG OPTIONS...
train() {
    result=$1 checkpoint=$2 config=$3
    shift 3
    make "$result/costs.json" accelerate launch -m elm_hf.training.sft --config "$here/$config.yaml" \
        --model_name_or_path "$checkpoint" --dataset $data --output_dir "$result" "$@" $tiny
}

table=
for recipe in $recipes; do
    folder=$out/$recipe trainable="projector llm" runs=
    case $recipe in
        two_stage)
            make $folder/encoder/costs.json accelerate launch -m elm_hf.pretrain --config $here/encoder.yaml \
                --dataset $data --output_dir $folder/encoder $encoder_tiny
            make $folder/elm elm-hf create $folder/elm $llm --encoder $folder/encoder --num-ecg-tokens $tokens
            train $folder/aligned $folder/elm align
            runs=$folder/encoder,$folder/aligned,
            ;;
        ecg_byte)
            trainable=llm
            make $folder/tokenizer elm-hf train-tokenizer $data --fold 1 --merges $merges --output $folder/tokenizer --quiet
            make $folder/elm elm-hf create $folder/elm $llm --representation symbol --ecg-tokenizer $folder/tokenizer \
                --max-ecg-tokens 4096 --seconds $seconds
            ;;
        linear) make $folder/elm elm-hf create $folder/elm $llm --projector linear --seconds $seconds ;;
        patch | conv)
            make $folder/elm elm-hf create $folder/elm $llm --projector $recipe --num-ecg-tokens $tokens --seconds $seconds
            ;;
        stacked_signal | image)
            make $folder/elm elm-hf create $folder/elm $vision --representation $recipe --num-ecg-tokens $tokens \
                --seconds $seconds
            ;;
        *) echo "run.sh: unknown recipe $recipe; the first lines of $0 list them" >&2; exit 2 ;;
    esac
    start=$folder/elm
    [ $recipe != two_stage ] || start=$folder/aligned
    train $folder/trained $start train --trainable $trainable
    make $folder/trained/report/report.json elm-hf evaluate $folder/trained --dataset $data \
        --output $folder/trained/report $evaluate
    table="$table $recipe=$runs$folder/trained"
done
run elm-hf costs $table
printf '\nECG-Byte (Han et al. 2024) claims a third of the time and 48 %% of the data of two stages: ratios 0.33 and 0.48.\n'
