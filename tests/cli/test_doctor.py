"""`robench doctor`."""

import pytest
import torch

from robench.doctor.cases import cases
from robench.search.attacks.pgd import PGD


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Three cases, and the threads of before."""
    some = cases()[:3]
    monkeypatch.setattr("robench.cli.doctor.cases", lambda device: some)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_a_correct_attack_is_reported_in_markdown_with_progress_on_stderr(robench):
    result = robench("doctor", "--attack", "pgd(steps=12, step_size=0.2)")
    assert result.code == 0
    assert result.out.startswith("# Conformance of attacks\n")
    assert "| `pgd(steps=12, step_size=0.2)` | l1 | 1.25 | ✓ | ✓ | ✓ |" in result.out
    assert result.err.splitlines()[0] == "[1/3] pgd(steps=12, step_size=0.2), linf: ok"
    assert len(result.err.splitlines()) == 3
    assert robench("doctor", "--attack", "pgd(steps=12, step_size=0.2)", "--quiet").err == ""


def test_a_fault_in_an_attack_of_robench_fails(robench, monkeypatch):
    monkeypatch.setattr(PGD, "step", lambda self, threat, batch, state, seen: state)
    result = robench("doctor", "--attack", "pgd(steps=2, random_start=False)")
    assert result.code == 1
    assert "linf: fails in plain, binary, logits − 100" in result.err
    assert "linf, every case: misses" in result.out


def test_a_fault_in_another_library_is_reported_without_failing(robench):
    """Foolbox's C&W does not move pixels at 0 and 1."""
    attack = "foolbox:L2CarliniWagnerAttack(steps=40, binary_search_steps=4, initial_const=1)"
    result = robench("doctor", "--attack", attack)
    assert result.code == 0
    assert f"`{attack}`, l2, binary: misses" in result.out


def test_an_unknown_attack_is_one_line(refused):
    assert "did you mean pgd" in refused("doctor", "--attack", "pgdd")
