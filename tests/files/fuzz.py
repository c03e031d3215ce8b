"""Damaged files through the confined examination: none may crash it, hang it, or make it read outside.

    python -m tests.files.fuzz --count 2000 --seed 0 --json benchmarks/fuzz.json    # for each reader
    python -m tests.files.fuzz --readers "Zarr*" --only 1234 --keep .     # one of them again; the file is kept

Each file is read by a process of its own, confined as in the service. To be quick these processes are forked from one
that has already loaded its code, and draw the picture of what they accept, which takes a hundred times longer than all
the rest, for one in `--pictures` files; one in `--spawn` is started afresh besides, and must say the same. The JSON is
written now and then; a run with the same seed goes on from what is in it.
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
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ups_server.data.atomic import replace_bytes
from ups_server.files.examination import Examination, environment, list_fonts
from ups_server.files.records import ExaminationRequest, ExaminationResult

if TYPE_CHECKING:
    from tests.files.mutations import Seed

SAVED = 50
"""Files of a reader after which the next one has its turn, and the figures are written."""
SECONDS = 600.0
"""Longest examination: more is a hang. (A process that computes is ended by its limit of CPU time, long before.)"""
LIBRARY = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE}
"""The HDF5 library failed; the process that read the file ended, and the file is refused."""
LIMITS = {signal.SIGXCPU, signal.SIGKILL}
SAME = {"SIGSEGV": "damaged_file", "SIGBUS": "damaged_file", "SIGABRT": "damaged_file", "SIGXCPU": "too_slow"}
"""What the service says of a process that ended by a signal."""


@dataclass(frozen=True)
class Drawn:
    """A damaged file: what it is read by, None where it explains itself, and what was done to it."""

    path: Path
    mapping: dict[str, Any] | None
    done: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """How one examination ended. `fault`: what must not be; None where all is well."""

    code: str
    fault: str | None


class Fuzz:
    """Files drawn with one seed from the good files of one reader, examined in a folder."""

    def __init__(self, folder: Path, seed: int, good: Sequence["Seed"]) -> None:
        from tests.pdebench_files import plain

        self.folder = folder
        self.seed = seed
        self.good = good
        self.cache = Path(os.environ["MPLCONFIGDIR"])
        self.secret = plain(folder / "secret.h5", {"beta": 0.4}, tensor=np.full((3, 5, 16), 12345.678, "f4"))

    def make(self, number: int) -> "Drawn":
        """The file of a number."""
        from tests.files.mutations import mutate

        random = np.random.default_rng([self.seed, zlib.crc32(self.good[0].reader.encode()), number])
        seed = self.good[int(random.integers(len(self.good)))]
        path = self.folder / (f"file{seed.path.suffix}" if seed.mapping is None else seed.path.name)
        done = mutate(random, seed.path, path, self.secret)
        os.utime(self.secret, (0, self.secret.stat().st_mtime))
        return Drawn(path, seed.mapping, (seed.path.name, *done))

    def job(self, drawn: "Drawn", place: str) -> ExaminationRequest:
        from ups_server.files.declaration import Declaration
        from ups_server.files.records import ExaminationLimits

        work = self.folder / place
        said = Declaration()
        if drawn.mapping is not None:
            said = Declaration.from_json(json.dumps({"mapping": drawn.mapping}))
        shutil.rmtree(work, ignore_errors=True)
        return ExaminationRequest(
            content=drawn.path, name=drawn.path.name, declaration=said, output=work / "output",
            limits=ExaminationLimits(),
        )  # fmt: skip

    def forked(self, drawn: "Drawn", picture: bool = True) -> Found:
        """Examines a file in a process that is forked from this one."""
        job = self.job(drawn, "forked")
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

    def spawned(self, drawn: "Drawn") -> Found:
        """Examines a file as the service does."""
        answered = Examination(self.job(drawn, "spawned"), self.cache, SECONDS).run()
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


def load() -> None:
    """Loads what an examination needs, once, before processes are forked."""
    import matplotlib.backends.backend_agg
    import matplotlib.pyplot  # noqa: F401

    import ups_server.files.examination_process  # noqa: F401


@dataclass
class Tally:
    """What became of the files of one reader."""

    files: int = 0
    faults: int = 0
    seconds: float = 0.0
    ends: Counter[str] = field(default_factory=Counter)


def run(fuzz: Fuzz, numbers: Sequence[int], spawn: int, pictures: int, tally: Tally) -> None:
    """Adds to `tally`; faults are printed as they are found."""
    began, before = time.monotonic(), tally.seconds
    for number in numbers:
        drawn = fuzz.make(number)
        found = [fuzz.forked(drawn, picture=number % pictures == 0)]
        if spawn and number % spawn == 0:
            found.append(fuzz.spawned(drawn))
        found_faults = [each.fault for each in found if each.fault]
        # Of a chunk that is too short the library hands out memory that nobody has written: each time another.
        random = "with_garbage_chunks" in drawn.done
        if len({SAME.get(each.code, each.code) for each in found}) > 1 and not random:
            found_faults.append(f"{found[0].code}, but started afresh {found[1].code}")
        for fault in found_faults:
            print(f"{number} ({', '.join(drawn.done)}): {fault}", flush=True)
        tally.files += 1
        tally.faults += len(found_faults)
        tally.ends[found[0].code] += 1
        tally.seconds = round(before + time.monotonic() - began, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2_000, help="files for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--spawn", type=int, default=100, help="one in so many is also started afresh; 0: none")
    parser.add_argument("--pictures", type=int, default=10, help="one in so many is drawn where it is accepted")
    parser.add_argument("--readers", metavar="PATTERN", default="*", help="only those, such as `Zarr*`")
    parser.add_argument("--only", type=int, help="one file by its number")
    parser.add_argument("--keep", type=Path, help="with --only: the folder for a copy of the file")
    parser.add_argument("--json", type=Path, help="a file for what was found, by reader")
    options = parser.parse_args()
    cache = Path(tempfile.gettempdir()) / f"ups-fuzz-fonts-{os.getuid()}"
    if os.environ.get("HDF5_PLUGIN_PRELOAD") != "::":  # read when the library is loaded
        os.execve(sys.executable, [sys.executable, "-m", "tests.files.fuzz", *sys.argv[1:]], environment(cache))
    from tests.files.mutations import Seed, seeds

    found: dict[str, Tally] = {}
    if options.only is not None:
        options.json = None
    elif options.json is not None and options.json.exists():
        before = json.loads(options.json.read_bytes())
        if before["seed"] == options.seed:
            found = {name: Tally(**{**each, "ends": Counter(each["ends"])}) for name, each in before["readers"].items()}

    def save() -> None:
        if options.json is not None:
            report = {"seed": options.seed, "readers": {name: vars(tally) for name, tally in found.items()}}
            replace_bytes(options.json, (json.dumps(report, indent=2) + "\n").encode())

    with tempfile.TemporaryDirectory(prefix="ups-fuzz-") as name:
        folder = Path(name)
        good: dict[str, list[Seed]] = {}
        for seed in seeds(folder / "seeds"):
            if fnmatch(seed.reader, options.readers):
                good.setdefault(seed.reader, []).append(seed)
                found.setdefault(seed.reader, Tally())
        list_fonts(cache)
        load()
        fuzzes = {reader: Fuzz(folder, options.seed, chosen) for reader, chosen in good.items()}
        if options.keep is not None:
            for fuzz in fuzzes.values():
                drawn = fuzz.make(options.only)
                shutil.copyfile(drawn.path, options.keep / f"fuzz-{options.seed}-{options.only}{drawn.path.suffix}")
                print(drawn.done)
        for reached in range(0, options.count, SAVED):  # a few of each reader in turn
            for reader, fuzz in fuzzes.items():
                numbers = range(max(reached, found[reader].files), min(reached + SAVED, options.count))
                if options.only is None:
                    run(fuzz, numbers, options.spawn, options.pictures, found[reader])
                elif reached == 0:
                    run(fuzz, [options.only], options.spawn, options.pictures, found[reader])
                save()
    for reader in good:
        tally = found[reader]
        print(f"{reader}: {tally.files} files, seed {options.seed}, {tally.faults} faults")
        print(json.dumps(dict(tally.ends.most_common())))
    faults = sum(tally.faults for tally in found.values())
    print(f"{len(good)} readers, {faults} faults")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
