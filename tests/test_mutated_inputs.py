"""Mutated inputs end in a result or in one sentence: no traceback, no hang, no file half-written, nothing executed."""

import sys

import pytest

from .mutations.kinds import KINDS
from .mutations.running import run

SAMPLE = 12  # inputs of each kind among the tests marked processes

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it limits memory and time by the signals of Unix")


SAMPLED = [(kind, number) for kind in KINDS for number in range(SAMPLE)]
WRONG = {
    "raise KeyError('x')": "prints 'is a bug'",
    "raise SystemExit(5)": "",  # what a model's own code may do
    "print('\\x1b[2J')": "prints control characters",
    "open('new.txt', 'w').close(); raise UserError('no')": "refused, and changed ['new.txt']",
    "import subprocess; subprocess.run(['true'])": "subprocess.Popen",
    "open('../outside', 'a').close()": "open /",  # the resolved path, beside the folder of the command
    "b'x' * 2**31": "prints 'little memory'",
    "import warnings; warnings.warn('x')": "prints 'Warning:'",
    "while True: pass": "over 20 s",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results of the sample, and of code in place of a command, one after the other in one process."""
    code = [(f"code {source}", 0) for source in WRONG]
    return list(run(tmp_path_factory.mktemp("valid"), [*SAMPLED, *code]))


def faults(results, inputs):
    """The faults of these inputs. `python -m tests.mutations KIND NUMBER` shows an input again."""
    assert [(result["kind"], result["number"]) for result in results] == inputs
    assert {0, 2} <= {result["code"] for result in results}, "some inputs work, and some are refused"
    return [f"{r['kind']} {r['number']}: {r['faults']} {str(r['message'])[-300:]}" for r in results if r["faults"]]


@pytest.mark.processes
def test_a_sample_of_mutated_inputs_works_or_is_refused_in_one_sentence(results):
    assert faults(results[: len(SAMPLED)], SAMPLED) == []


@pytest.mark.slow
def test_all_mutated_inputs_work_or_are_refused_in_one_sentence(tmp_path):
    inputs = [(kind, number) for kind, (_, count) in KINDS.items() for number in range(count)]
    assert len(inputs) == 10_000
    assert faults(list(run(tmp_path, inputs)), inputs) == []


@pytest.mark.processes
def test_the_harness_sees_what_a_command_must_not_do(results):
    for result, fault in zip(results[len(SAMPLED) :], WRONG.values(), strict=True):
        assert any(found.startswith(fault) for found in result["faults"] or [""])
        assert fault or not result["faults"]
