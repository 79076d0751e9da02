"""Measured comparisons with transformers, one command a table: `python -m benchmarks.inference`, `.training`, `.losses`,
`.masks`, `.evaluation`, `.loading`, `.scaling`; what transformers gets wrong: `.traps`; on a GPU: `benchmarks/gpu.sh`.

Each runs ours and theirs in one process, in turns, on the same weights and inputs; prints medians with quartiles, what
they are against transformers as it comes and at its best, peak memory and the machine; and writes JSON, Markdown and a
plot. `--quick` does the same in seconds at sizes that mean nothing; `--original PATH` adds the original repository.
"""
