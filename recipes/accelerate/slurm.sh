#!/bin/bash
# Trains on several nodes of a Slurm cluster: sbatch --nodes 2 recipes/accelerate/slurm.sh my_run.yaml
# All nodes must see the same installation, data and output folder. If the job is killed or requeued, the same command resumes
# from the last complete checkpoint.
#SBATCH --job-name=elm
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -eu
recipe=${1:?usage: sbatch slurm.sh RECIPE [OPTIONS OF elm-hf train]}
shift
gpus_per_node=${GPUS_PER_NODE:-8}
main_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# SLURM_NODEID differs between nodes, so it is expanded on each node and not here.
srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch \
    --config_file "$(elm-hf recipes accelerate/fsdp2_multi_node)" \
    --num_machines "$SLURM_NNODES" --num_processes "$(("$SLURM_NNODES" * '"$gpus_per_node"'))" \
    --machine_rank "$SLURM_NODEID" --main_process_ip '"$main_node"' --main_process_port "${PORT:-29500}" \
    -m elm_hf.training.sft --config "$@"' bash "$recipe" "$@"
