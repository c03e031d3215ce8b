"""Damaged files through the confined examination: none may crash it, hang it, or make it read outside.

    python -m tests.files.fuzz --count 10000 --seed 0
    python -m tests.files.fuzz --only 1234 --seed 0 --keep .     # one of them again; the file is kept

Each file is read by a process of its own, confined as in the service. To be quick these processes are forked from one
that has already loaded its code, and draw the picture of what they accept, which takes a hundred times longer than all
the rest, for one in `--pictures` files; one in `--spawn` is started afresh besides, and must say the same.
"""

import argparse
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ups_server.files.examination import Examination, environment, list_fonts
from ups_server.files.records import ExaminationRequest, ExaminationResult

SECONDS = 600.0
"""Longest examination: more is a hang. (A process that computes is ended by its limit of CPU time, long before.)"""
LIBRARY = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE}
"""The HDF5 library failed; the process that read the file ended, and the file is refused."""
LIMITS = {signal.SIGXCPU, signal.SIGKILL}
SAME = {"SIGSEGV": "damaged_file", "SIGBUS": "damaged_file", "SIGABRT": "damaged_file", "SIGXCPU": "too_slow"}
"""What the service says of a process that ended by a signal."""


@dataclass(frozen=True)
class Found:
    """How one examination ended. `fault`: what must not be; None where all is well."""

    code: str
    fault: str | None


class Fuzz:
    """Files drawn with one seed, examined in a folder."""

    def __init__(self, folder: Path, seed: int, mapped: str | None = None) -> None:
        from tests.files.mutations import mapped_seeds, seeds
        from tests.pdebench_files import plain

        self.folder = folder
        self.seed = seed
        self.cache = Path(os.environ["MPLCONFIGDIR"])
        self.mappings: dict[str, dict[str, Any]] = {}
        if mapped is None:
            self.seeds = seeds(folder / "seeds")
        else:
            self.mappings = mapped_seeds(folder / "seeds", mapped)
            self.seeds = [folder / "seeds" / name for name in self.mappings]
        self.secret = plain(folder / "secret.h5", {"beta": 0.4}, tensor=np.full((3, 5, 16), 12345.678, "f4"))

    def make(self, number: int) -> tuple[Path, list[str]]:
        """The file of a number, and what is wrong with it."""
        from tests.files.mutations import mutate

        random = np.random.default_rng([self.seed, number])
        seed = self.seeds[random.integers(len(self.seeds))]
        path = self.folder / (seed.name if self.mappings else "file.h5")
        done = mutate(random, seed, path, self.secret)
        os.utime(self.secret, (0, self.secret.stat().st_mtime))
        return path, [seed.stem, *done]

    def job(self, path: Path, place: str) -> ExaminationRequest:
        from ups_server.files.declaration import Declaration
        from ups_server.files.records import ExaminationLimits

        work = self.folder / place
        said = Declaration()
        if path.name in self.mappings:
            said = Declaration.from_json(json.dumps({"mapping": self.mappings[path.name]}))
        shutil.rmtree(work, ignore_errors=True)
        return ExaminationRequest(
            content=path, name=path.name, declaration=said, output=work / "output", limits=ExaminationLimits()
        )

    def forked(self, path: Path, picture: bool = True) -> Found:
        """Examines a file in a process that is forked from this one."""
        job = self.job(path, "forked")
        job.output.mkdir(parents=True)
        answer, log = job.output.with_name("answer.json"), job.output.with_name("log.txt")
        child = os.fork()
        if child == 0:
            _examine(job, answer, log, picture)
        ended, status = _wait(child)
        if not ended:
            return Found("hang", f"still running after {SECONDS:g} s")
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            kind = signal.Signals(-code)
            known = kind in LIBRARY or kind in LIMITS
            return Found(kind.name, None if known else f"ended by {kind.name}")
        if code != 0:
            return Found("failed", f"exit code {code}: {log.read_text(errors='replace')[-3000:]}")
        return self._judged(ExaminationResult.model_validate_json(answer.read_bytes()))

    def spawned(self, path: Path) -> Found:
        """Examines a file as the service does."""
        answered = Examination(self.job(path, "spawned"), self.cache, SECONDS).run()
        assert answered is not None
        return self._judged(answered[0])

    def _judged(self, result: ExaminationResult) -> Found:
        code = result.problem.code if result.problem is not None else "accepted"
        if self.secret.stat().st_atime != 0:
            return Found(code, "the file outside was read")
        if code == "examination_failed":
            return Found(code, f"failed: {result.problem}")
        return Found(code, None)


def _examine(job: ExaminationRequest, answer: Path, log: Path, picture: bool) -> None:
    """In the child: the program of the service, from its main function on."""
    code = 1
    try:
        for path, descriptor in ((answer, 1), (log, 2)):
            os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), descriptor)
        os.chdir(job.output)
        sys.stdin = io.StringIO(job.model_dump_json())
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        from ups_server import pictures
        from ups_server.files import examination_process

        if not picture:
            setattr(pictures, "save_picture", lambda *_: None)  # noqa: B010
        examination_process.main()
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _wait(child: int) -> tuple[bool, int]:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return True, status
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    return False, os.waitpid(child, 0)[1]


def run(
    folder: Path, seed: int, numbers: Iterable[int], spawn: int, pictures: int, mapped: str | None = None
) -> tuple[Counter[str], int]:
    """How files ended, and the number of faults, each of which is printed as it is found."""
    fuzz = Fuzz(folder, seed, mapped)
    list_fonts(fuzz.cache)
    import matplotlib.backends.backend_agg
    import matplotlib.pyplot  # noqa: F401

    import ups_server.files.examination_process  # noqa: F401

    ends: Counter[str] = Counter()
    faults = 0
    for number in numbers:
        path, done = fuzz.make(number)
        found = [fuzz.forked(path, picture=number % pictures == 0)]
        if spawn and number % spawn == 0:
            found.append(fuzz.spawned(path))
        found_faults = [each.fault for each in found if each.fault]
        if len({SAME.get(each.code, each.code) for each in found}) > 1:
            found_faults.append(f"{found[0].code}, but started afresh {found[1].code}")
        for fault in found_faults:
            print(f"{number} ({', '.join(done)}): {fault}", flush=True)
        ends[found[0].code] += 1
        faults += len(found_faults)
        if sum(ends.values()) % 100 == 0:
            print(f"{sum(ends.values())} files, {faults} faults", file=sys.stderr, flush=True)
    return ends, faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--spawn", type=int, default=100, help="one in so many is also started afresh; 0: none")
    parser.add_argument("--pictures", type=int, default=10, help="one in so many is drawn where it is accepted")
    parser.add_argument("--only", type=int, help="one file by its number")
    parser.add_argument("--mapped", metavar="PATTERN", help="files read through a mapping, such as `*.mat` or `*`")
    parser.add_argument("--keep", type=Path, help="with --only: the folder for a copy of the file")
    options = parser.parse_args()
    cache = Path(tempfile.gettempdir()) / f"ups-fuzz-fonts-{os.getuid()}"
    if os.environ.get("HDF5_PLUGIN_PRELOAD") != "::":  # read when the library is loaded
        os.execve(sys.executable, [sys.executable, "-m", "tests.files.fuzz", *sys.argv[1:]], environment(cache))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ups-fuzz-") as name:
        if options.keep is not None:
            path, done = Fuzz(Path(name), options.seed, options.mapped).make(options.only)
            shutil.copyfile(path, options.keep / f"fuzz-{options.seed}-{options.only}.h5")
            print(done)
        numbers = range(options.first, options.first + options.count) if options.only is None else [options.only]
        ends, faults = run(Path(name), options.seed, numbers, options.spawn, options.pictures, options.mapped)
    print(json.dumps(dict(ends.most_common())))
    print(f"{sum(ends.values())} files, seed {options.seed}, {time.monotonic() - began:.0f} s, {faults} faults")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
