"""Loading processes end with the block that started them."""

import io
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from conditional_detr.workers import InSharedMemory, WorkerDied, batches_of, leave_signals_to_the_parent


class Numbers(Dataset):
    def __len__(self):
        return 10_000

    def __getitem__(self, index):
        return torch.full((1000,), index)


def loader(workers=2):
    return DataLoader(Numbers(), batch_size=4, num_workers=workers, worker_init_fn=leave_signals_to_the_parent)


def children():
    """The processes that run as children of this one."""
    import multiprocessing

    return {process.pid for process in multiprocessing.active_children()}


def test_processes_are_gone_when_the_block_ends_early():
    before = children()
    with batches_of(loader()) as batches:
        first = next(batches)
        assert first[0, 0] == 0 and len(children() - before) == 2
        for pid in children() - before:
            os.kill(pid, signal.SIGTERM)  # as a batch system sends it to every process
        time.sleep(0.2)
        assert sum(1 for _ in zip(range(50), batches, strict=False)) == 50  # and they still load
    assert not children() - before


def test_processes_are_gone_after_an_error():
    before = children()
    with pytest.raises(KeyError), batches_of(loader()) as batches:
        next(batches)
        raise KeyError
    assert not children() - before


def test_a_dead_process_is_explained_at_the_next_batch_and_nowhere_else():
    before = children()
    with batches_of(loader()) as batches:
        next(batches)
        victim = min(children() - before)
        os.kill(victim, signal.SIGKILL)
        for _ in range(1000):  # nothing is raised between batches
            time.sleep(0.0002)
        with pytest.raises(WorkerDied, match=r"ended by SIGKILL, most often because memory ran out.*--workers"):
            for _ in batches:
                pass
    assert not children() - before


def test_signal_handlers_are_as_before():
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]
    with batches_of(loader()) as batches:
        next(batches)
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGINT, signal.SIGTERM}


def test_without_processes_batches_come_as_they_are():
    with batches_of(loader(0)) as batches:
        assert [batch[0, 0].item() for batch, _ in zip(batches, range(3), strict=False)] == [0, 4, 8]


def no_room(worker):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # as if /dev/shm were full


def test_a_batch_for_which_shared_memory_has_no_room_is_an_error_and_is_not_waited_for():
    full = DataLoader(
        Numbers(), batch_size=4, num_workers=1, worker_init_fn=no_room, collate_fn=InSharedMemory(torch.stack)
    )
    with batches_of(full) as batches, pytest.raises(WorkerDied, match="could not hand a batch over: shared memory"):
        next(batches)


PROGRAM = """
import sys
sys.path[:0] = sys.argv[1].split(":")
from test_workers import loader
from conditional_detr.workers import batches_of

def held():
    with batches_of(loader()) as batches:
        yield from batches

kept = held()  # lives until Python ends
next(kept)
{ending}
"""


@pytest.mark.parametrize("ending", ["", "raise KeyError"])
def test_a_program_ends_though_it_still_holds_batches(tmp_path, ending):
    (tmp_path / "program.py").write_text(PROGRAM.replace("{ending}", ending))
    paths = ":".join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run([sys.executable, str(tmp_path / "program.py"), paths], timeout=100, capture_output=True)
    assert done.returncode == (1 if ending else 0), done.stderr


class HandedOver(Numbers):
    """Says whether a process that hands a batch over to a parent that hangs up keeps quiet, and tells anything else."""

    def __getitem__(self, i):
        said = io.StringIO()
        with redirect_stderr(said):
            for error in (EOFError(), ConnectionResetError(), ValueError("odd")):
                sys.excepthook(type(error), error, None)
        return said.getvalue() == "ValueError: odd\n"


def test_a_parent_that_hangs_up_is_no_error_of_a_process():
    loader = DataLoader(HandedOver(), batch_size=4, num_workers=1, worker_init_fn=leave_signals_to_the_parent)
    with batches_of(loader) as batches:
        assert next(batches).all()
