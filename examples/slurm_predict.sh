#!/bin/bash
# Detect in millions of pictures on machines of a Slurm cluster: Ray's head on the first of them, a worker on each other, and
# `cdetr predict` beside the head. Submitted again, it does the parts that are missing:
#
#     sbatch --nodes 4 slurm_predict.sh MODEL PICTURES OUTPUT [options of cdetr predict]
#
# MODEL need be on the first machine alone; PICTURES and OUTPUT are on a disk that all share, or in a bucket. Linted
# (shellcheck), never run on a Slurm cluster. For machines without GPUs take --gpus-per-node out.
#SBATCH --job-name=cdetr-predict
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=8
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output=cdetr-predict-%j.log
set -euo pipefail

model=$1 pictures=$2 output=$3
shift 3
# . /path/to/venv/bin/activate      # with conditional-detr[cluster], the same on all machines

export RAY_USAGE_STATS_ENABLED=0
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
port=$((20000 + SLURM_JOB_ID % 10000)) # so that two jobs on one machine do not meet
gpus=${SLURM_GPUS_ON_NODE:-0}
here=(srun --overlap --nodes=1 --ntasks=1)

"${here[@]}" --nodelist="$head" ray start --block --head --port="$port" \
    --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$gpus" --include-dashboard=false &
for _ in $(seq 60); do
    ray health-check --address "$head:$port" 2> /dev/null && break
    sleep 2
done
if ((${#nodes[@]} > 1)); then
    srun --overlap --nodes=$((${#nodes[@]} - 1)) --ntasks-per-node=1 --exclude="$head" \
        ray start --block --address="$head:$port" --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$gpus" &
fi
sleep 30 # until the workers have joined: cdetr takes as many actors as there are GPUs when it begins

"${here[@]}" --nodelist="$head" \
    cdetr predict --cluster "$head:$port" --model "$model" --images "$pictures" --output "$output" --write parquet "$@"
