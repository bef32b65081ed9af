"""Runs mutated inputs in a child process; when one ends the process, the next runs in another process."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def run(valid: Path, inputs: Sequence[tuple[str, int]]) -> Iterator[dict[str, Any]]:
    """What each of these inputs, by kind and number, does, in their order.

    The first process writes the valid files, which are mutated, into their folder, if it is empty.
    """
    left = list(inputs)
    while left:
        with tempfile.TemporaryFile("w+") as list_of_inputs, tempfile.TemporaryDirectory() as temporary:
            json.dump(left, list_of_inputs)
            list_of_inputs.seek(0)
            environment = {**_environment(), "TMPDIR": temporary}  # removed even if the process was killed
            command = [sys.executable, "-m", "tests.mutations.child", str(valid)]
            with subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=list_of_inputs, stdout=subprocess.PIPE, text=True
            ) as process:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n", "the valid files cannot be written"
                for line in process.stdout:
                    left.pop(0)
                    yield json.loads(line)
        if left:
            yield _ended(process.returncode, *left.pop(0))


def _ended(code: int, kind: str, number: int) -> dict[str, Any]:
    names = {-signal.SIGPROF: "over 20 s", -signal.SIGALRM: "waits without end"}
    fault = names.get(code, f"the process ended with {code}")
    about = {"kind": kind, "number": number, "words": [], "code": code, "message": ""}
    return {**about, "faults": [fault], "seconds": 0.0}


def _environment() -> dict[str, str]:
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "ROBENCH_PRECISION_CACHE": ""}
