"""Measured comparisons with transformers, one command a table: `python -m benchmarks.inference`, `.training`, `.losses`,
`.evaluation`.

Each runs ours and theirs in one process, in turns, on the same weights and inputs; prints medians with their spread and
the machine; and with `--output FOLDER` writes JSON and Markdown.
"""
