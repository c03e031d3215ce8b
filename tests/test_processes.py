"""What processes share: what is freed is used again, and how those of `torchrun` end."""

import os
import subprocess
import sys

import pytest

from ups_server.processes import give_back_freed_memory, keep_freed_memory

PROGRAM = """
import resource
import numpy as np
{first}
def step():
    blocks = [np.full(6_000_000, 1.0) for _ in range(4)]
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
before = faults()
for _ in range(3):
    step()
print(faults() - before)
"""


def faults(first: str) -> int:
    """Page faults of steps that free all they use, in a process that does `first` before."""
    program = PROGRAM.format(first=first)
    return int(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)


def test_a_process_keeps_what_it_frees_where_it_asks_for_it_and_by_no_import() -> None:
    if not keep_freed_memory():
        pytest.skip("another C library")
    # 576 MB anew, in pages of 2 MB at most.
    assert faults("") >= 288
    assert faults("import ups_server.model.ups") >= 288
    assert faults("from ups_server.processes import keep_freed_memory; keep_freed_memory()") < 50


RETAINED = """
import threading
import numpy as np
from ups_server.processes import give_back_freed_memory
def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) // 1024
def work(release):
    blocks = [np.ones(2**20 * size, np.uint8) for size in (31, 20, 20, 10)]
    del blocks
    release.wait()
{first}
before = resident()
release = threading.Event()
threads = [threading.Thread(target=work, args=(release,)) for _ in range(4)]
for thread in threads:
    thread.start()
release.set()
for thread in threads:
    thread.join()
print(resident() - before)
"""


def test_a_process_that_reads_bodies_gives_back_what_it_frees() -> None:
    if not give_back_freed_memory():
        pytest.skip("another C library")
    program = RETAINED.format(first="assert give_back_freed_memory()")
    kept = int(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)
    assert kept < 8, "MiB of 81 in each of four threads"


@pytest.mark.parametrize(("rank", "code"), [("0", 3), ("1", 0)])
def test_what_fails_after_the_end_of_an_assisting_process_does_not_count(rank: str, code: int) -> None:
    program = "import atexit, os; from ups_server.processes import leave_torchrun as leave; "
    program += "atexit.register(os._exit, 3); print('written', flush=os.environ['RANK'] == '0'); leave()"
    environment = {**os.environ, "RANK": rank, "TORCHELASTIC_RUN_ID": "one"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, "written\n")
