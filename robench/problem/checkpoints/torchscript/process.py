"""The process in which a TorchScript archive is checked before it is loaded.

It is started for one archive, has little memory, time and stack, no network, and cannot write files, so that an archive
that brings torch's reader down brings nothing else down.
"""

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

from . import graphs, objects
from .archive import Archive, reason, shortened
from .pickles import Pickle
from .source import Class, outline
from .verdict import Damaged, Inspection, Refused

STACK = 1 << 20  # bytes: an eighth of what the process that loads the archive has
ROOM = 1 << 30  # bytes of memory, beside what the process has already
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000  # of Linux: an account and a network of its own
COPIES = 8  # of the archive, and of what is made of it, that have room as well


def main() -> None:
    """Checks the archive on standard input and writes the verdict to standard output; argument 1 is the seconds."""
    give_up_network()
    answer = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing of the archive gets there
    data = sys.stdin.buffer.read()
    verdicts: list[Inspection] = []

    def check() -> None:
        confine(int(sys.argv[1]), len(data))
        verdicts.append(examine(data))

    threading.stack_size(STACK)
    thread = threading.Thread(target=check)
    thread.start()
    thread.join()
    if verdicts:
        os.write(answer, verdicts[0].to_json())


def examine(data: bytes) -> Inspection:
    """What is wrong with an archive. Its code is compiled here, and its objects made, once their code is known."""
    try:
        _check(data)
    except Refused as refused:
        return Inspection(refused=shortened(str(refused), 400))
    except Damaged as damaged:
        return Inspection(damaged=str(damaged))
    except RecursionError:
        return Inspection(refused="is nested too deeply to be checked")
    except MemoryError:
        return Inspection(refused="takes more memory to read than its size explains")
    except Exception as error:  # whatever torch makes of an archive that nobody has thought of
        return Inspection(refused=f"could not be checked ({type(error).__name__}: {reason(error)})")
    return Inspection()


def _check(contents: bytes) -> None:
    archive = Archive.read(contents)
    outlines = [outline(module, source) for module, source in archive.code.items()]
    classes: dict[str, Class] = {c.name: c for outlined in outlines for c in outlined.classes}
    for record, data in archive.pickles.items():
        objects.check(Pickle(record, data, archive.sizes, classes if record == "data.pkl" else ()), classes)
    functions = [name for outlined in outlines for name in outlined.functions]
    unit, _ = graphs.load(archive.without_objects(classes, functions))
    graphs.check(unit, classes, inlined=True)
    known = {function.qualified_name for function in unit.get_functions()}
    for name in [*functions, *(f"{c.name}.{method}" for c in classes.values() for method in c.methods)]:
        if name not in known:
            raise Refused(f"has code in {name} that torch does not compile")
    del unit
    # Every function is known to only compute, `__setstate__` as well: now objects may be made.
    unit, _ = graphs.load(contents)
    graphs.check(unit, classes, inlined=False)
    graphs.read_source_ranges(unit)


def give_up_network() -> bool:
    """Leaves the network of the machine, where Linux lets a process of one thread do so. Whether it did."""
    try:
        import ctypes

        left: int = ctypes.CDLL(None).unshare(CLONE_NEWUSER | CLONE_NEWNET)
    except (ImportError, OSError, AttributeError):
        return False
    return left == 0


def confine(seconds: int, size: int) -> None:
    """Takes from this process, as far as the system can, what checking an archive of `size` bytes does not need."""
    try:
        import resource
    except ImportError:  # Windows
        return
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # not Linux; macOS does not limit memory
        pages = 0
    memory = pages * resource.getpagesize() + ROOM + COPIES * size if pages else resource.RLIM_INFINITY
    limits = {"CPU": seconds, "FSIZE": 0, "CORE": 0, "NPROC": 0, "AS": memory}
    for name, limit in limits.items():
        with suppress(OSError, ValueError, AttributeError):  # not every system has each, or lets it be lowered
            # The process ends by SIGXCPU at the first limit of seconds; at the second nothing would say why.
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit + 5 if name == "CPU" else limit))
