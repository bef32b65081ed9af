"""The environment of a run: machine, threads, commit."""

import time
from pathlib import Path

import pytest
import torch

import robench
from robench.errors import UserError
from robench.evaluation.environment import commit, date, environment, model_size, pick_device, use_granted_cores
from robench.results.merging import DATE, date_of

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("quota", "threads"),
    [("200000 100000\n", 2), ("150000 100000\n", 2), ("10000 100000\n", 1), ("max 100000\n", 4), ("", 4)],
)
def test_threads_are_limited_to_the_cores_of_the_container(tmp_path, monkeypatch, quota, threads):
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (tmp_path / "cpu.max").write_text(quota)
    torch.set_num_threads(4)
    try:
        use_granted_cores(tmp_path / "cpu.max")
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_omp_num_threads_takes_precedence(tmp_path, monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    (tmp_path / "cpu.max").write_text("100000 100000")
    torch.set_num_threads(3)
    try:
        use_granted_cores(tmp_path / "cpu.max")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_source_checkout_is_recorded_with_its_commit():
    is_checkout = (Path(robench.__file__).parents[1] / ".git").exists()
    assert bool(commit(CPU)) == is_checkout
    assert ("commit" in environment(CPU)) == is_checkout


def test_the_size_of_a_model_counts_what_training_sets():
    """A normalisation over batches also keeps 2 * 3 running statistics and a counter, which no gradient sets."""
    assert model_size(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))) == {"parameters": "21"}
    assert model_size(torch.nn.ReLU()) == {}


def test_an_unavailable_device_is_refused_with_those_available():
    with pytest.raises(UserError, match="there is no device 'tpu' here"):
        pick_device("tpu")
    assert pick_device("cpu") == CPU


def test_a_date_is_in_utc_and_source_date_epoch_takes_precedence(monkeypatch):
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    assert abs(time.mktime(time.strptime(date(), DATE)) - time.mktime(time.gmtime())) < 10
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1795673400")
    assert date() == "2026-11-26T06:10:00Z"
    assert date_of({"date": date()}) == date()


@pytest.mark.parametrize("text", ["", "soon", "-1", "1e9", "253402300800", "9" * 30, "\u0661"])
def test_a_source_date_that_is_no_time_is_refused(monkeypatch, text):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
    with pytest.raises(UserError, match="seconds since 1970"):
        date()
