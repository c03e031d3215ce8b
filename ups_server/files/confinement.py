"""What a process gives up before it touches a hostile file: resources, other files, the network, other programs.

Linux only, by the kernel's own interfaces: resource limits, Landlock (`landlock(7)`) and a seccomp filter
(`seccomp(2)`). Every function says whether the protection holds, so that a report can say so.
"""

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

from ups_server.files.records import ExaminationLimits

GRACE_S = 5
"""A process that outlived the signal at its limit of CPU time is killed so many CPU seconds later."""
SMALL_BYTES = 16 * 2**20
"""Room for picture, manifest and answer beside a store."""

LINUX = sys.platform == "linux"

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
SECCOMP_MODE_FILTER = 2
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
CREATE_RULESET_VERSION = 1
RULE_PATH_BENEATH = 1

WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5
MAKE_DIR, MAKE_REG, TRUNCATE = 1 << 7, 1 << 8, 1 << 14
FILE_RIGHTS_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""ABI -> all rights on files that it knows: what is handled and not granted is denied."""
NETWORK_ABI, ALL_NETWORK = 4, 0b11
SCOPE_ABI, ALL_SCOPES = 6, 0b11
WRITABLE = WRITE_FILE | READ_FILE | READ_DIR | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG

DENIED_CALLS = {
    # socket, connect, accept, sendto, socketpair, bind, listen, fork, vfork, execve, kill, ptrace, process_vm_readv,
    # process_vm_writev, memfd_create, bpf, execveat, userfaultfd, io_uring_setup
    "x86_64": (41, 42, 43, 44, 53, 49, 50, 57, 58, 59, 62, 101, 310, 311, 319, 321, 322, 323, 425),
    "aarch64": (198, 203, 202, 206, 199, 200, 201, 221, 129, 117, 270, 271, 279, 280, 281, 282, 425),
}
AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_CALLS = 0x40000000
CLONE = {"x86_64": 56, "aarch64": 220}
CLONE3, CLONE_THREAD = 435, 0x10000
LOAD_WORD, JUMP_EQUAL, JUMP_GREATER_EQUAL, JUMP_SET, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, FAIL_EPERM, FAIL_ENOSYS = 0x7FFF0000, 0x80000000, 0x00050000 | 1, 0x00050000 | 38


def die_with_parent() -> None:
    """The kernel ends this process when the one that started it ends."""
    if LINUX:
        parent = os.getppid()
        _libc().prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def limit_resources(limits: ExaminationLimits) -> None:
    """Memory beyond what is in use now, CPU time, file size, open files, no core dump; `allow_cpu` narrows further."""
    used = _address_space()
    if used is not None:
        _limit(resource.RLIMIT_AS, used + limits.memory_bytes)
    _limit(resource.RLIMIT_CPU, limits.cpu_s, limits.cpu_s + GRACE_S)
    _limit(resource.RLIMIT_FSIZE, limits.store_bytes + SMALL_BYTES)
    _limit(resource.RLIMIT_NOFILE, _highest_descriptor() + 1 + limits.open_files)
    _limit(resource.RLIMIT_CORE, 0)


def allow_cpu(seconds: int) -> None:
    """How much CPU time the process may have used in all from now on, within what `limit_resources` left."""
    _limit(resource.RLIMIT_CPU, seconds, resource.getrlimit(resource.RLIMIT_CPU)[1])


def restrict_files(read: Iterable[Path], write: Iterable[Path]) -> bool:
    """Landlock: from now on this process opens nothing but files in or beneath these paths; no TCP either.

    Returns:
        False where the kernel has no Landlock.
    """
    abi = _landlock_abi()
    if abi < 1:
        return False
    rights = max(value for known, value in FILE_RIGHTS_BY_ABI.items() if known <= abi)
    attributes = struct.pack(
        "QQQ", rights, ALL_NETWORK if abi >= NETWORK_ABI else 0, ALL_SCOPES if abi >= SCOPE_ABI else 0
    )
    size = 8 if abi < NETWORK_ABI else 16 if abi < SCOPE_ABI else 24
    ruleset = _libc().syscall(LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return False
    try:
        for path in read:
            _allow(ruleset, path, READ_FILE | READ_DIR)
        for path in write:
            _allow(ruleset, path, (WRITABLE | TRUNCATE) & rights)
        _libc().prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        return bool(_libc().syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def restrict_calls() -> bool:
    """Seccomp: from now on no sockets, no programs, no other processes.

    Returns:
        False where the kernel has no seccomp, or on an architecture whose calls are not listed here.
    """
    machine = platform.machine()
    if not LINUX or machine not in DENIED_CALLS:
        return False
    program = _filter(AUDIT_ARCHITECTURE[machine], DENIED_CALLS[machine], CLONE[machine])
    code = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code)))
    _libc().prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(_libc().prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0) == 0)


def _filter(architecture: int, denied: tuple[int, ...], clone: int) -> bytes:
    """The BPF program: kill on a foreign architecture, EPERM for `denied` and for new processes, else allow."""
    allow = len(denied) + 9
    forbid, unknown = allow + 1, allow + 2
    program: list[tuple[int, int, int, int]] = [  # (code, target if true, target if false, value)
        (LOAD_WORD, 0, 0, 4),  # seccomp_data.arch
        (JUMP_EQUAL, 3, 2, architecture),
        (RETURN, 0, 0, KILL),
        (LOAD_WORD, 0, 0, 0),  # seccomp_data.nr
        (JUMP_GREATER_EQUAL, forbid, 5, X32_CALLS),
        *((JUMP_EQUAL, forbid, place, call) for place, call in enumerate(denied, start=6)),
        (JUMP_EQUAL, unknown, len(denied) + 6, CLONE3),  # the C library falls back on clone, whose flags can be read
        (JUMP_EQUAL, len(denied) + 7, allow, clone),
        (LOAD_WORD, 0, 0, 16),  # seccomp_data.args[0]
        (JUMP_SET, allow, forbid, CLONE_THREAD),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, FAIL_EPERM),
        (RETURN, 0, 0, FAIL_ENOSYS),
    ]
    return b"".join(
        struct.pack("HBBI", code, max(yes - place - 1, 0), max(no - place - 1, 0), value)
        for place, (code, yes, no, value) in enumerate(program)
    )


def _landlock_abi() -> int:
    if not LINUX:
        return 0
    return int(_libc().syscall(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), CREATE_RULESET_VERSION))


def _allow(ruleset: int, path: Path, rights: int) -> None:
    if not path.is_dir():
        rights &= READ_FILE | WRITE_FILE | TRUNCATE
    descriptor = os.open(path, getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", rights, descriptor)
        if _libc().syscall(LANDLOCK_ADD_RULE, ruleset, RULE_PATH_BENEATH, rule, 0) != 0:
            raise OSError(ctypes.get_errno(), f"no Landlock rule for {path}")
    finally:
        os.close(descriptor)


def _limit(kind: int, soft: int, hard: int | None = None) -> None:
    highest = resource.getrlimit(kind)[1]
    hard = soft if hard is None else hard
    if highest != resource.RLIM_INFINITY:
        soft, hard = min(soft, highest), min(hard, highest)
    resource.setrlimit(kind, (soft, hard))


def _address_space() -> int | None:
    """Bytes this process has mapped; None where that is not known."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return None
    return pages * resource.getpagesize()


def _highest_descriptor() -> int:
    for folder in ("/proc/self/fd", "/dev/fd"):
        if os.path.isdir(folder):
            return max(int(name) for name in os.listdir(folder))
    return 2


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
