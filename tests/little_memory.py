"""Programs that run out of memory for real: what they may take more is limited by the system, in a process of their own."""

import os
import resource
import subprocess
import sys
from pathlib import Path


def take_little_more(megabytes=400):
    """From here on this process gets only so much more memory than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def last_line_of(program, *arguments):
    """Run a program, which can import what tests can, and return its last line and all it said of errors."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    return done.stdout.splitlines()[-1], done.stderr
