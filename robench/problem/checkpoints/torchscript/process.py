"""The process that inspects a TorchScript archive before it is loaded.

It handles one archive, with limited memory, time and stack, no network and no permission to write files, so that an
archive that crashes torch's reader crashes nothing else.
"""

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

from ..confinement.kernel import NotConfined, forbid_all_but_computing
from . import graphs, objects
from .archive import Archive, reason, shortened
from .inspection import Damaged, Inspection, Refused
from .pickles import Pickle
from .source import Class, outline

STACK = 1 << 20  # bytes: an eighth of the stack of the process that loads the archive
ROOM = 1 << 30  # bytes of memory in addition to what the process uses at the start
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000  # of Linux: a user and a network namespace of its own
COPIES = 8  # copies of the archive, and of data derived from it, that also fit into memory


def main(seconds: str) -> None:
    """Inspects the archive on standard input in these seconds of computation; writes the result to standard output."""
    give_up_network()
    answer = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # code in the archive cannot write to it
    data = sys.stdin.buffer.read()
    results: list[Inspection] = []

    def check() -> None:
        confine(int(seconds), len(data))
        with suppress(NotConfined):  # where the system lacks the means, the limits alone hold
            forbid_all_but_computing()
        results.append(inspect(data))

    threading.stack_size(STACK)
    thread = threading.Thread(target=check)
    thread.start()
    thread.join()
    if results:
        os.write(answer, results[0].to_json())


def inspect(data: bytes) -> Inspection:
    """The fault of an archive, if any. Compiles its code, and creates its objects once their code has been checked."""
    try:
        _check(data)
    except Refused as refused:
        return Inspection(refused=shortened(str(refused), 400))
    except Damaged as damaged:
        return Inspection(damaged=str(damaged))
    except RecursionError:
        return Inspection(refused="is nested too deeply to be checked")
    except MemoryError:
        return Inspection(refused="needs far more memory to read than its size")
    except Exception as error:  # torch may raise anything for an unusual archive
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
    # Every function is known to only compute, including `__setstate__`: now objects may be created.
    unit, _ = graphs.load(contents)
    graphs.check(unit, classes, inlined=False)
    graphs.read_source_ranges(unit)


def give_up_network() -> bool:
    """Leaves the network of the machine, if Linux allows it; returns whether it did. Needs a single thread."""
    try:
        import ctypes

        left: int = ctypes.CDLL(None).unshare(CLONE_NEWUSER | CLONE_NEWNET)
    except (ImportError, OSError, AttributeError):
        return False
    return left == 0


def confine(seconds: int, size: int) -> None:
    """Limits the resources of this process, as far as the system can, to what an archive of `size` bytes needs."""
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
        with suppress(OSError, ValueError, AttributeError):  # systems may lack a limit, or forbid lowering it
            # At the soft limit of CPU seconds the process ends by SIGXCPU; at the hard limit, without a reason.
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit + 5 if name == "CPU" else limit))
