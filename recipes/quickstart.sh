#!/bin/sh
# The main job from the first to the last step. Every line is a command you can type alone.
set -eu
cd "$(dirname "$0")/.."
rm -rf outputs/quickstart
mkdir -p outputs/quickstart
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(getconf _NPROCESSORS_ONLN)}"
started=$(date +%s)
run() { printf '\n$ %s\n' "$*"; "$@"; }

run elm-hf prepare simulated_reports --num-recordings 2500 --output outputs/quickstart/reports --quiet & # meanwhile
reports=$!
run elm-hf prepare simulated_qa --num-recordings 2000 --output outputs/quickstart/data
run elm-hf create outputs/quickstart/elm --config recipes/quickstart_elm.json --normalization none \
    --vocab-size 768 --tokenizer-dataset outputs/quickstart/data
wait "$reports"
run accelerate launch -m elm_hf.training.sft --config recipes/quickstart_align.yaml
run accelerate launch -m elm_hf.training.sft --config recipes/quickstart.yaml
run elm-hf ask outputs/quickstart/trained --dataset outputs/quickstart/data --trust-remote-code \
    --plot outputs/quickstart/ecg.png > outputs/quickstart/answers.txt & # meanwhile
answers=$!
run elm-hf evaluate outputs/quickstart/trained --dataset outputs/quickstart/data --limit 600 --occlusions 4 \
    --output outputs/quickstart/report
wait "$answers"
cat outputs/quickstart/answers.txt

printf '\nFinished in %s seconds.\n' "$(($(date +%s) - started))"
