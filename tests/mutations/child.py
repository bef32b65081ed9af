"""The process that runs mutated inputs: in one process after another, with limits, watching what each does.

The argument is the folder of the valid files; if it is empty, they are written first, and "ready" is printed when they
are there. Standard input holds a list of kinds and numbers in JSON; for each it prints one line of JSON.
"""

import getpass
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from random import Random
from unittest import mock

import torch

from robench.problem.checkpoints.confinement.process import CHILD

from .kinds import KINDS, valid_files

SEED = 20
SECONDS, WAITING = 20, 120  # of computing, and by the clock of a machine that others use too
ROOM = 2**30  # bytes of memory beside those of the process
TRAINING = 0.5  # seconds after which Ctrl-C ends a training
ACTIONS = (
    *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "pickle.find_class"),
)
CODE = "code "  # begins a kind that is code, run in place of a command: it shows what this process sees
NO_MEMORY = ("fit into memory", "more memory than", "little memory", "out of memory")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate")


class Watch:
    """Records what code does beside computing: processes, connections, pickles, files outside of its folders."""

    def __init__(self, *folders: Path):
        self.seen: list[str] = []
        self.active = False
        self._folders = [str(folder.resolve()) for folder in folders]
        sys.addaudithook(self._event)

    def _event(self, event: str, args: tuple[object, ...]) -> None:
        if not self.active:
            return
        if event in ACTIONS and not (_is_of_git(args) or _is_confined(args)):
            self.seen.append(f"{event} {args[:2]!r}")
        elif event in CHANGES or (event == "open" and isinstance(args[2], int) and args[2] & WRITING):
            self._path(event, args[0])

    def _path(self, event: str, path: object) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            full = os.path.realpath(os.fsdecode(path))
            if full != os.devnull and not full.startswith(tuple(self._folders)):
                self.seen.append(f"{event} {full}")


def _is_of_git(args: tuple[object, ...]) -> bool:
    """Whether it is git, of which robench learns its own commit, and a library of Foolbox its version."""
    words = args[1] if len(args) > 1 else None
    return isinstance(words, list) and words[:1] == ["git"] and ("describe" in words or words[1:] == ["version"])


def _is_confined(args: tuple[object, ...]) -> bool:
    """Whether it is the process in which ONNX Runtime reads a graph that robench does not import."""
    words = args[1] if len(args) > 1 else None
    return isinstance(words, list) and CHILD in words


class Command:
    """Commands of robench, run in this process, each in a fresh folder."""

    def __init__(self, root: Path):
        self.temporary, self.folder = root / "temporary", root / "work"
        self.temporary.mkdir()
        tempfile.tempdir = str(self.temporary)
        self.watch = Watch(self.temporary, self.folder)

    def run(self, words: list[str], encoding: str = "utf-8", seconds: float = 0) -> tuple[object, bytes, bytes]:
        """The exit code, and both outputs. Ctrl-C ends a training after these seconds of computing; 0: nothing does."""
        from robench.cli.main import main

        out, err = (io.TextIOWrapper(io.BytesIO(), encoding, errors=how) for how in ("strict", "backslashreplace"))
        code: object = "no exit"
        former, sys.argv = sys.argv, ["robench", *words]
        if words[0] == "train":
            signal.signal(signal.SIGVTALRM, _stop)
            signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
        try:
            with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
                warnings.simplefilter("always")
                main()
        except SystemExit as ended:
            code = ended.code
        except BaseException:
            code = traceback.format_exc()
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            sys.argv = former
        for stream in (out, err):
            stream.flush()
        return code, out.buffer.getvalue(), err.buffer.getvalue()

    def mutated(self, valid: Path, kind: str, number: int) -> dict[str, object]:
        """What one mutated input does."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        os.chdir(self.folder)
        random = Random(f"{SEED}-{kind}-{number}")
        source = kind.removeprefix(CODE) if kind.startswith(CODE) else ""
        words = ["list", "attacks"] if source else KINDS[kind][0](valid, self.folder, random)
        encoding = random.choice(["utf-8"] * 9 + ["latin-1"])
        before = _files(self.folder)
        self.watch.seen.clear()
        signal.setitimer(signal.ITIMER_PROF, 1 if source else SECONDS)
        signal.setitimer(signal.ITIMER_REAL, WAITING)
        began, self.watch.active = time.process_time(), True
        with _replaced(source):
            code, out, err = self.run(words, encoding, TRAINING)
        self.watch.active = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        after = _files(self.folder)
        faults = [*_faults(code, out.decode(encoding), err.decode(encoding)), *self.watch.seen]
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        if code == 2 and changed and not _measured_nothing(err):
            faults.append(f"refused, and changed {changed}")
        shutil.rmtree(self.temporary / f"torchinductor_{getpass.getuser()}", ignore_errors=True)  # of torch
        if left := sorted(path.name for path in self.temporary.iterdir()):
            faults.append(f"left {left}")
            shutil.rmtree(self.temporary)
            self.temporary.mkdir()
        if left := [name for name in changed if name.rpartition("/")[2].startswith(".") and name != "d/.nojekyll"]:
            faults.append(f"left {left}")
        message = (code if isinstance(code, str) else err.decode(encoding))[-2000:]
        seconds = round(time.process_time() - began, 2)
        about = {"kind": kind, "number": number, "words": words, "code": code, "message": message}
        return {**about, "faults": faults, "seconds": seconds}


@contextmanager
def _replaced(source: str) -> Iterator[None]:
    """Every command replaced by this code, if there is any."""
    if not source:
        yield
        return
    from robench.cli import main
    from robench.errors import UserError

    with mock.patch.object(main.robench, "main", side_effect=lambda *_, **__: exec(source, {"UserError": UserError})):
        yield


def _measured_nothing(err: bytes) -> bool:
    """Whether a run ended without a number: then its file holds why, and the exit code is 2."""
    return not err or any(text in err for text in (b"the notes under the table", b"nothing was measured"))


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.is_symlink()}


def _faults(code: object, out: str, err: str) -> list[str]:
    """What a command must not do, by its exit code and outputs."""
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    found = []
    if code not in (0, 1, 2, 3, 130):
        found.append(f"exit {str(code).strip().splitlines()[-1]}")
    for word in ("is a bug", "Traceback", "Warning:", *NO_MEMORY):
        if word in err or word in out:
            found.append(f"prints {word!r}")
    unmeasured = out and not lines  # check says so in its comment
    if code == 2 and not unmeasured and not (len(lines) == 1 and lines[0].startswith("Error: ") and not out):
        found.append(f"refused in {len(lines)} lines")
    if code == 2 and len(err) > 3000:
        found.append("a very long sentence")
    if any(not c.isprintable() and c not in "\n\t" for c in out + err):
        found.append("prints control characters")
    return found


def confine() -> None:
    """Limits the memory of this process to what it has, and ROOM."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Runs the inputs."""
    valid = Path(sys.argv[1]).resolve()
    answers = os.fdopen(os.dup(1), "w")
    sys.dont_write_bytecode = True
    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp(prefix="mutated-"))
    try:
        commands = Command(root)
        if not any(valid.iterdir()):
            os.chdir(valid)
            valid_files(valid, lambda *words: _succeed(commands.run([*words])))
        inputs = json.load(sys.stdin)
        _warm_up(commands, valid)
        confine()
        print("ready", file=answers, flush=True)
        for kind, number in inputs:
            print(json.dumps(commands.mutated(valid, kind, number)), file=answers, flush=True)
    finally:
        os.chdir("/")
        shutil.rmtree(root)


def _warm_up(commands: Command, valid: Path) -> None:
    """Import, before memory is limited, what the commands need."""
    commands.folder.mkdir()
    os.chdir(commands.folder)
    shutil.copy(valid / "lp.robench", commands.folder)
    for line in (
        "report lp.robench",
        "evaluate digits-nat --examples 2 --minutes 0.002 --quiet --threat linf:0.1",
        "figures lp.robench --out d --kind gallery",
        "train nat --set steps=1 --no-evaluation --out new --quiet",
        "verify lp.robench --quiet",
    ):
        commands.run(line.split())


def _succeed(result: tuple[object, bytes, bytes]) -> None:
    code, _, err = result
    assert code == 0, err.decode()


if __name__ == "__main__":
    main()
