#!/bin/sh
# Trains one model with ECGs, one with zeros in their place and one with text only, asks each of them in the same three ways,
# and prints the 3 x 3 matrix of scores (ECG-Bench, Han et al. 2025). A model reads ECGs only as far as training and asking
# with ECGs beats training and asking without.
#
#     MODEL=outputs/elm DATA=data/ecg_qa sh recipes/ecg_conditions/run.sh [--smoke] [OPTIONS OF elm-hf train ...]
#
# MODEL is a checkpoint of elm-hf create (its encoder pre-trained, if it has one). --smoke uses a tiny model and simulated
# ECGs, to check that everything runs.
set -eu
cd "$(dirname "$0")/../.."
here=recipes/ecg_conditions smoke=false out=${OUTPUT:-outputs/ecg_conditions}
if [ "${1:-}" = --smoke ]; then
    smoke=true out=${SMOKE_OUTPUT:-outputs/ecg_conditions_smoke}
    shift
fi
run() { printf '\n$ %s\n' "$*"; "$@"; }
# Skips steps whose output exists already.
make() { target=$1; shift; [ -e "$target" ] || run "$@"; }

if $smoke; then
    data=$out/data model=$out/elm evaluate="--limit 24 --occlusions 0"
    tiny="--use_cpu true --bf16 false --max_steps 2 --gradient_accumulation_steps 1 --use_peft false"
    make $data elm-hf prepare simulated_qa --num-recordings 24 --seconds 2 --output $data
    make $model elm-hf create $model --config recipes/comparison/smoke/elm.json --tokenizer-dataset $data \
        --vocab-size 500 --projector patch --num-ecg-tokens 10 --seconds 2
else
    data=${DATA:-data/ecg_qa} model=${MODEL:?name a checkpoint: MODEL=outputs/elm sh $0} tiny= evaluate=
fi
for condition in signal zeros none; do
    make $out/$condition/costs.json accelerate launch -m elm_hf.training.sft --config $here/train.yaml \
        --model_name_or_path $model --dataset $data --output_dir $out/$condition --ecg_condition $condition $tiny "$@"
    make $out/$condition/report/report.json elm-hf evaluate $out/$condition --dataset $data \
        --output $out/$condition/report --condition ecg --condition zeros --condition none $evaluate
done
run python $here/print_matrix.py $out
