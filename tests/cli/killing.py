"""Starts a command once to its end, then again and again and kills each start at its moment; the last may finish.

A moment is a share of the seconds of the undisturbed start. If a machine that has become slower lost no work at all of
them, later ones follow. Torch is imported once, in a process that then forks for
every start: so twenty starts take seconds. Writes one JSON line per start on standard output: whether it was still
alive when it was killed, what it searched, and what the run file holds after it.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch

from robench.cli import evaluate  # noqa: F401 (so that a start finds it imported)
from robench.cli.main import main
from robench.errors import UserError
from robench.evaluation import prepared, runner
from robench.evidence.store import RunFile
from robench.search.engine.engine import Engine

LATER = 1.5  # times the last moment is the next one
LATEST = 5  # times the undisturbed start


def start(words: list[str], log: Path) -> int:
    """The process of a started command, which writes every search that has ended into the log at once."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nowhere = os.open(log.with_suffix(".txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)

        class Logged(Engine):
            def work(self, jobs, until):
                for ended in super().work(jobs, until):
                    for end in ended:
                        if not end.dropped:
                            result = str(end.job.threat), end.job.attack.spec
                            line = json.dumps([*result, self.split.numbers[end.item.row], end.item.number])
                            os.write(out, line.encode() + b"\n")
                    yield ended

        runner.Engine = Logged
        sys.argv = ["robench", *words]
        main()
    except SystemExit as ended:
        code = ended.code
    finally:
        os._exit(code)


def ended(child: int, moment: float | None) -> bool:
    """Whether the process came to its end; killed after so many seconds if it has not by then."""
    deadline = time.monotonic() + (60 if moment is None else moment)
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0, "the command failed"
            return True
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def known(path: Path) -> dict[str, list[object]]:
    """What a reader sees in the run file."""
    if not path.exists():
        return {"broken": [], "spent": [], "claims": []}
    try:
        with RunFile.read(path) as run:
            evidence = run.evidence()
    except UserError as error:
        if "is not a robench run file" in str(error) and path.stat().st_size == 0:
            return {"broken": [], "spent": [], "claims": []}  # killed before the first byte
        raise
    return {
        "broken": [[c.threat, c.example] for c, v in evidence.judged() if v.accepted],
        "spent": [[s.threat, s.attack, s.example, i] for s in evidence.exhausted for i in range(8) if s.done >> i & 1],
        "claims": [[c.threat, c.attack, c.example, c.restart] for c in evidence.claims if c.forwards],
    }


def started(words: list[str], name: str, number: int, moment: float | None) -> tuple[float, bool]:
    """Starts the command for the run and the summary of this name; its seconds, and whether it lost work."""
    path = Path(f"{name}.robench")
    log = Path(f"{name}-{number}.log")
    began = time.monotonic()
    over = ended(start([*words, "--run", str(path), "--json", f"{name}.json"], log), moment)
    seconds = time.monotonic() - began
    searched = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    found = known(path)
    print(json.dumps({"over": over, "searched": searched, **found}), flush=True)
    return seconds, any(s not in found["spent"] and [s[0], s[2]] not in found["broken"] for s in searched)


if __name__ == "__main__":
    torch.set_num_threads(1)
    prepared.SLOTS = {"cpu": 16, "cuda": 16}
    moments, words = json.loads(sys.argv[1]), sys.argv[2:]
    undisturbed, _ = started(words, "whole", 0, None)
    lost = [started(words, "killed", number, moment * undisturbed)[1] for number, moment in enumerate(moments)]
    moment = max(moments)
    while not any(lost) and moment < LATEST:
        moment *= LATER
        lost.append(started(words, "killed", len(lost), moment * undisturbed)[1])
    started(words, "killed", len(lost), None)
