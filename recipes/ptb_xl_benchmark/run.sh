#!/bin/sh
# Trains an encoder on PTB-XL's labels and compares its macro AUROC on fold 10 with Strodthoff et al. (2020).
#
#     SOURCE=path/to/ptb-xl sh recipes/ptb_xl_benchmark/run.sh [--smoke]
#
# SOURCE is the download of physionet.org/content/ptb-xl/1.0.3, of which ptbxl_database.csv, scp_statements.csv and
# records100 are read. DATA is the dataset that is built from it (default: data/ptb_xl_100hz), OUTPUT the folder of the
# results. An interrupted run continues. On a GPU, add --bf16 true after a -- to train in bfloat16; other options of
# elm-hf pretrain follow in the same way. --smoke uses a tiny encoder and simulated ECGs, to check that everything runs.
set -eu
cd "$(dirname "$0")/../.."
here=recipes/ptb_xl_benchmark smoke=false out=${OUTPUT:-outputs/ptb_xl_benchmark} data=${DATA:-data/ptb_xl_100hz}
while [ $# -gt 0 ]; do
    case $1 in
        --smoke) smoke=true out=${SMOKE_OUTPUT:-outputs/ptb_xl_benchmark_smoke} data=${SMOKE_OUTPUT:-outputs/ptb_xl_benchmark_smoke}/data ;;
        --) shift; break ;;
        *) echo "run.sh: unknown option $1; the first lines of $0 list them" >&2; exit 2 ;;
    esac
    shift
done
run() { printf '\n$ %s\n' "$*"; "$@"; }
# Skips steps whose output exists already.
make() { target=$1; shift; [ -e "$target" ] || run "$@"; }

if $smoke; then
    fold=1 tiny="--encoder_config $here/smoke/encoder.json"
    short="--use_cpu true --num_train_epochs 2 --per_device_train_batch_size 16"
    make $data elm-hf prepare simulated_reports --num-recordings 60 --seconds 4 --sampling-rate 100 --output $data
else
    fold=official tiny= short=
    [ -e "$data" ] || run elm-hf prepare ptb_xl --source "${SOURCE:?name the download of PTB-XL: SOURCE=... sh $0}" \
        --source-rate 100 --sampling-rate 100 --output "$data"
fi
make $out/encoder/costs.json accelerate launch -m elm_hf.pretrain --config $here/encoder.yaml --dataset "$data" \
    --fold $fold --output_dir $out/encoder $tiny $short "$@"
make $out/encoder_10s/costs.json accelerate launch -m elm_hf.pretrain --config $here/whole_ecgs.yaml --dataset "$data" \
    --fold $fold --encoder $out/encoder --output_dir $out/encoder_10s $short "$@"
make $out/classifier/report.json elm-hf evaluate-encoder $out/encoder --dataset "$data" --fold $fold \
    --output $out/classifier --update-card
make $out/windows/report.json elm-hf evaluate-encoder $out/encoder --dataset "$data" --fold $fold \
    --window-seconds 2.5 --output $out/windows --update-card
make $out/linear_probe/report.json elm-hf evaluate-encoder $out/encoder --dataset "$data" --fold $fold \
    --output $out/linear_probe --linear-probe --update-card
make $out/measured/report.json elm-hf evaluate-encoder $out/encoder --dataset "$data" --fold $fold \
    --output $out/measured --linear-probe --measurements all --update-card
make $out/classifier_10s/report.json elm-hf evaluate-encoder $out/encoder_10s --dataset "$data" --fold $fold \
    --output $out/classifier_10s --update-card
make $out/measured_10s/report.json elm-hf evaluate-encoder $out/encoder_10s --dataset "$data" --fold $fold \
    --output $out/measured_10s --linear-probe --measurements all --update-card
run python $here/print_table.py $out/classifier $out/windows $out/linear_probe $out/measured $out/classifier_10s $out/measured_10s
printf '\nThe cards of the encoders, before and after the epochs of whole ECGs, are %s and %s.\n' "$out/encoder/README.md" \
    "$out/encoder_10s/README.md"
