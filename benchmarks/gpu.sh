#!/usr/bin/env bash
# Everything that needs a GPU, in under nine minutes, from the source tree with what a CUDA PyTorch image has: PyTorch,
# torchvision, timm, transformers. No network. Results: gpu.json and gpu.md in $OUT, or else in runs/benchmarks.
#   benchmarks/gpu.sh                        all of it
#   benchmarks/gpu.sh --device cpu --quick   whether it works, without a GPU
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="src:.${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" -m benchmarks.gpu "$@"
