#!/bin/bash
# Train on several machines of a Slurm cluster, a process a GPU. Submitted again, it goes on from the newest checkpoint:
#
#     sbatch --nodes 4 slurm_train.sh DATA OUTPUT [options of cdetr train]
#
# DATA and OUTPUT are on a disk that all share. Linted (shellcheck), never run on a Slurm cluster.
#SBATCH --job-name=cdetr-train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --gpus-per-node=8
#SBATCH --mem=0
#SBATCH --time=48:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --output=cdetr-train-%j.log
set -euo pipefail

data=$1 output=$2
shift 2
# . /path/to/venv/bin/activate      # with conditional-detr, the same on all machines

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000)) # so that two jobs on one machine do not meet
exec srun torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc_per_node "$SLURM_GPUS_ON_NODE" \
    --rdzv_backend c10d --rdzv_id "$SLURM_JOB_ID" --rdzv_endpoint "$head:$port" \
    -m conditional_detr train --config conditional_detr_r50_50e --data "$data" --output "$output" --resume auto "$@"
