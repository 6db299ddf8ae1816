#!/bin/sh
# The whole workflow: simulated ECGs with questions, an encoder that learns their labels, a new model that learns to answer,
# answers and an evaluation. Each command can also be run alone.
set -eu
cd "$(dirname "$0")/.."
rm -rf outputs/quickstart
mkdir -p outputs/quickstart
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(getconf _NPROCESSORS_ONLN)}"
started=$(date +%s)
run() { printf '\n$ %s\n' "$*"; "$@"; }

run elm-hf prepare simulated_qa --num-recordings 4000 --sampling-rate 100 --output outputs/quickstart/data
run elm-hf pretrain --config quickstart_encoder
run elm-hf create outputs/quickstart/elm --config quickstart_elm --encoder outputs/quickstart/encoder \
    --vocab-size 768 --tokenizer-dataset outputs/quickstart/data
run elm-hf train --config quickstart
run elm-hf ask outputs/quickstart/trained --dataset outputs/quickstart/data --trust-remote-code \
    --plot outputs/quickstart/ecg.png > outputs/quickstart/answers.txt & # in parallel
answers=$!
run elm-hf evaluate outputs/quickstart/trained --dataset outputs/quickstart/data --limit 600 --occlusions 4 --calibration --counterfactuals \
    --output outputs/quickstart/report
wait "$answers"
cat outputs/quickstart/answers.txt

printf '\nFinished in %s seconds.\n' "$(($(date +%s) - started))"
