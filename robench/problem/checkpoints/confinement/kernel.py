"""What the Linux kernel forbids a process, for good: a seccomp filter of its system calls, and Landlock for its files.

The filter is a list of what is allowed: to compute with threads, on memory and on descriptors that are open already.
Every other call fails with EPERM, those of kernels to come included: no file opens, no socket, no process, no signal
to another. Landlock forbids files and TCP a second time, independent of the numbers of system calls.

seccomp(2), landlock(7), and Documentation/userspace-api/seccomp_filter.rst of the kernel.
"""

import ctypes
import os
import platform
import struct
import sys
from errno import ENOSYS, EPERM
from typing import Any

_X86_64 = """
    brk=12 clock_getres=229 clock_gettime=228 clock_nanosleep=230 clone=56 clone3=435 close=3 exit=60 exit_group=231
    fcntl=72 fstat=5 futex=202 get_mempolicy=239 get_robust_list=274 getcpu=309 getpid=39 getpriority=140 getrandom=318
    getrusage=98 gettid=186 gettimeofday=96 lseek=8 madvise=28 membarrier=324 mincore=27 mmap=9 mprotect=10 mremap=25
    munmap=11 nanosleep=35 poll=7 ppoll=271 read=0 restart_syscall=219 rseq=334 rt_sigaction=13 rt_sigprocmask=14
    rt_sigreturn=15 sched_getaffinity=204 sched_getparam=143 sched_getscheduler=145 sched_yield=24 seccomp=317
    set_robust_list=273 setitimer=38 sigaltstack=131 sysinfo=99 tgkill=234 time=201 times=100 uname=63 write=1
    """
_AARCH64 = """
    brk=214 clock_getres=114 clock_gettime=113 clock_nanosleep=115 clone=220 clone3=435 close=57 exit=93 exit_group=94
    fcntl=25 fstat=80 futex=98 get_mempolicy=236 get_robust_list=100 getcpu=168 getpid=172 getpriority=141 getrandom=278
    getrusage=165 gettid=178 gettimeofday=169 lseek=62 madvise=233 membarrier=283 mincore=232 mmap=222 mprotect=226
    mremap=216 munmap=215 nanosleep=101 ppoll=73 read=63 restart_syscall=128 rseq=293 rt_sigaction=134
    rt_sigprocmask=135 rt_sigreturn=139 sched_getaffinity=123 sched_getparam=121 sched_getscheduler=120 sched_yield=124
    seccomp=277 set_robust_list=99 setitimer=103 sigaltstack=132 sysinfo=179 tgkill=131 times=153 uname=160 write=64
    """
SYSTEMS = {"x86_64": (0xC000003E, _X86_64), "aarch64": (0xC00000B7, _AARCH64)}
"""The number of each processor in the kernel (AUDIT_ARCH), and the allowed system calls with theirs."""
CONDITIONAL = ("clone", "clone3", "fcntl", "tgkill", "seccomp")  # allowed with some arguments only, or not at all

LANDLOCK_CREATE, LANDLOCK_RESTRICT = 444, 446  # the same numbers on every processor
_FILES = {1: 13, 2: 14, 3: 15, 5: 16}  # rights to files by version of Landlock: how many of them there are
_SET_NO_NEW_PRIVS = 38
_FILTER_MODE, _ALL_THREADS, _SPECULATION = 1, 1, 4  # without the last, older kernels slow the processor down
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000
_THREAD = 0x00010000  # CLONE_THREAD
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # instructions of the filter
_COPY_DESCRIPTOR = 1030  # F_DUPFD_CLOEXEC, which Python uses to map memory
_NUMBER, _PROCESSOR, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 4, 16, 24  # places in what the filter reads


class NotConfined(Exception):  # noqa: N818 (a property of the system, not an internal error)
    """The system lacks the means; the text completes "the program is not confined: "."""


def forbid_all_but_computing() -> str:
    """Confines this process, with all its threads, until it ends; returns what holds it. Needs a single thread.

    Raises NotConfined where the system has no seccomp filters. Landlock is used where there is one.
    """
    if sys.platform != "linux" or platform.machine() not in SYSTEMS:
        raise NotConfined(f"there is no filter for {platform.system()} on {platform.machine()}")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise NotConfined(f"the system lets no process give up rights ({os.strerror(ctypes.get_errno())})")
    landlock = _restrict_files(libc)
    processor, numbers = SYSTEMS[platform.machine()]
    allowed = {name: int(number) for name, _, number in (entry.partition("=") for entry in numbers.split())}
    _set_filter(libc, filter_program(processor, allowed, os.getpid()), allowed["seccomp"])
    return "seccomp and Landlock" if landlock else "seccomp"


def filter_program(processor: int, allowed: dict[str, int], pid: int) -> bytes:
    """The instructions of the filter. Of `clone` only threads pass, of `tgkill` only signals to the process itself."""
    fails = (_RETURN, 0, 0, _FAIL | EPERM)
    passes = (_RETURN, 0, 0, _ALLOW)
    program = [
        (_LOAD, 0, 0, _PROCESSOR),
        (_EQUAL, 1, 0, processor),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    for name, number in allowed.items():
        if name not in CONDITIONAL:
            program += [(_EQUAL, 0, 1, number), passes]
    first, second = (_LOAD, 0, 0, _FIRST_ARGUMENT), (_LOAD, 0, 0, _SECOND_ARGUMENT)
    program += [(_EQUAL, 0, 4, allowed["clone"]), first, (_ANY_BIT, 0, 1, _THREAD), passes, fails]
    program += [(_EQUAL, 0, 4, allowed["tgkill"]), first, (_EQUAL, 0, 1, pid), passes, fails]
    program += [(_EQUAL, 0, 4, allowed["fcntl"]), second, (_EQUAL, 0, 1, _COPY_DESCRIPTOR), passes, fails]
    # The flags of clone3 lie in memory, where no filter can read them: the C library then uses clone.
    program += [(_EQUAL, 0, 1, allowed["clone3"]), (_RETURN, 0, 0, _FAIL | ENOSYS), fails]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


def _set_filter(libc: Any, program: bytes, number: int) -> None:
    held = ctypes.create_string_buffer(program, len(program))
    about = ctypes.create_string_buffer(struct.pack("HP", len(program) // 8, ctypes.addressof(held)))
    if libc.syscall(number, _FILTER_MODE, _ALL_THREADS | _SPECULATION, about):
        raise NotConfined(f"the kernel accepts no filter of system calls ({os.strerror(ctypes.get_errno())})")


def _restrict_files(libc: Any) -> bool:
    """Forbids all files by Landlock, and TCP and the sockets of others where it can; returns whether it exists."""
    version = libc.syscall(LANDLOCK_CREATE, None, 0, 1)
    if version < 1:
        return False
    files = (1 << max(count for since, count in _FILES.items() if since <= version)) - 1
    rights = [files, *([3] if version >= 4 else []), *([3] if version >= 6 else [])]  # files, TCP, scopes
    held = ctypes.create_string_buffer(struct.pack(f"{len(rights)}Q", *rights), 8 * len(rights))
    rules = libc.syscall(LANDLOCK_CREATE, held, 8 * len(rights), 0)
    if rules < 0:
        return False
    try:
        return bool(libc.syscall(LANDLOCK_RESTRICT, rules, 0) == 0)
    finally:
        os.close(rules)
