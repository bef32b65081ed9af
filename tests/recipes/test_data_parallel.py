"""Several processes train as one, end together, and only the first writes."""

import ast
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import robench
from robench.errors import UserError
from robench.problem.split import Split
from robench.problem.threats import parse
from robench.recipes import RECIPES, configure
from robench.recipes.data_parallel import ALONE, Ranks, launched, local_device
from robench.recipes.making import Order, make
from robench.recipes.ramp import paired
from robench.recipes.training import MeanReport, Training, TrainingData

from ..evaluation.test_workers import listening
from .ranks import CPU
from .ranks import Ranks as Forks
from .test_recipes import LEARNT, Silent, blobs, fast, mlp

BATCH, STEPS = 48, 6
DIVISIBLE = sorted(name for name, kind in RECIPES.items() if kind.divisible)


class Noted:
    """Collects the reports of a training; may send itself a signal at a step."""

    def __init__(self, at=None, number=signal.SIGTERM):
        self.seen, self.at, self.number = [], at, number

    def step(self, step, steps, loss, accuracy):
        self.seen.append((step, loss, accuracy))
        if step == self.at:
            os.kill(os.getpid(), self.number)


def trained(ranks, name, module=mlp, path=Path("none"), steps=STEPS, report=None):
    """The tensors of a network after so many steps, and what was reported."""
    net, report = module(), report or Noted()
    settings = {"steps": steps, "batch": BATCH, "optimiser": "sgd", "lr": 0.05, **fast(name, 2)}
    recipe = configure(name, "blobs", settings)
    data = TrainingData.of(blobs(160), BATCH, 0, CPU, ranks=ranks)
    if recipe.self_training:
        data = data.beside(blobs(80))
    optimiser = recipe.optimiser_for(net.parameters())
    under_way = Training(net, optimiser, path, "test", MeanReport(ranks, report), ranks=ranks)
    recipe.train(under_way, data, tuple(map(parse, LEARNT[name])))
    return dict(net.state_dict()), report.seen, under_way.memory


@pytest.fixture(autouse=True)
def no_state(monkeypatch):
    """Nothing is saved but where a test names a file."""
    save = Training._save
    monkeypatch.setattr(Training, "_save", lambda self, step: save(self, step) if self.path != Path("none") else None)


@pytest.mark.processes
@pytest.mark.parametrize("name", DIVISIBLE)
def test_two_processes_take_the_steps_of_one(name, tmp_path):
    one, reported, memory = trained(ALONE, name)
    (first, seen, kept), (second, nothing, _) = Forks(2, tmp_path, lambda ranks: trained(ranks, name)).results()
    for key, weight in one.items():
        assert torch.equal(first[key], second[key])
        torch.testing.assert_close(first[key], weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.tensor(seen), torch.tensor(reported), rtol=1e-4, atol=1e-5)
    assert nothing == []
    assert kept.keys() == memory.keys()
    for key, tensor in memory.items():
        torch.testing.assert_close(kept[key], tensor, rtol=1e-4, atol=1e-5)


def test_the_pairs_of_ramp_are_those_of_all_processes(tmp_path):
    first, second = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0))
    correct = torch.tensor([True, False, False, False, True, True, True, False])

    def shares(ranks):
        rows = ranks.part(torch.arange(8))
        return paired(first[rows], second[rows], correct[rows], ranks)

    one, other = Forks(2, tmp_path, shares).results()
    torch.testing.assert_close((one + other) / 2, paired(first, second, correct))
    assert not torch.isclose(one, other)


def test_processes_that_took_the_same_images_would_be_seen(tmp_path, monkeypatch):
    one, _, _ = trained(ALONE, "nat")
    monkeypatch.setattr(Ranks, "part", lambda self, rows: rows[: len(rows) // self.size])
    first = Forks(2, tmp_path, lambda ranks: trained(ranks, "nat")).results()[0][0]
    assert not all(torch.allclose(first[key], one[key], rtol=1e-4, atol=1e-5) for key in one)


def normalised():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))


def test_statistics_of_batch_norm_are_means_over_the_processes(tmp_path):
    def work(ranks):
        return trained(ranks, "nat", normalised, steps=1)[0]

    one, (first, second) = work(ALONE), Forks(2, tmp_path, work).results()
    assert all(torch.equal(first[key], second[key]) for key in first)
    torch.testing.assert_close(first["2.running_mean"], one["2.running_mean"])
    assert not torch.equal(first["2.running_var"], one["2.running_var"])  # of a part: another unbiased estimate
    torch.testing.assert_close(first["2.running_var"], one["2.running_var"], rtol=0.1, atol=0)


def test_a_signal_to_one_process_stops_all_after_the_same_step_and_the_same_command_continues(tmp_path):
    whole = Forks(2, made(tmp_path / "whole"), lambda ranks: trained(ranks, "pgd_at")).results()[0][0]
    state = tmp_path / "state"

    def stopped(ranks):
        return trained(ranks, "pgd_at", path=state, report=Noted(at=3))

    assert Forks(2, made(tmp_path / "stopped"), stopped).codes() == [130, 130]
    assert torch.load(state)["step"] == 3
    (first, seen, _), (second, _, _) = Forks(
        2, made(tmp_path / "on"), lambda ranks: trained(ranks, "pgd_at", path=state)
    ).results()
    assert [step for step, _, _ in seen] == [4, 5, 6]
    assert all(torch.equal(first[key], whole[key]) and torch.equal(second[key], whole[key]) for key in whole)


@pytest.mark.parametrize("killed", [0, 2])
def test_a_killed_process_ends_all_with_one_sentence(tmp_path, killed):
    def work(ranks):
        report = Noted(at=3 if ranks.rank == killed else None, number=signal.SIGKILL)
        return trained_each(ranks, report)

    forks = Forks(3, tmp_path, work)
    codes = forks.codes()
    assert codes == [-signal.SIGKILL if rank == killed else 2 for rank in range(3)]
    (error,) = forks.errors()
    assert error == (
        "RankLostError: another process of this training has ended or cannot be reached; type the same command again to"
        " continue from the last saved state"
    )


def test_processes_that_torchrun_starts_again_find_each_other(tmp_path):
    def work(ranks):
        return trained_each(ranks, Noted(at=3 if ranks.rank == 1 else None, number=signal.SIGKILL))

    first = Forks(2, made(tmp_path / "first"), work)
    assert first.codes() == [2, -signal.SIGKILL]
    again = Forks(2, made(tmp_path / "again"), lambda ranks: trained_each(ranks, Noted()), after=first)
    assert [len(seen) for seen in again.results()] == [STEPS, STEPS]


def trained_each(ranks, report):
    """A training in which every process has a report of its own."""
    data = TrainingData.of(blobs(160), BATCH, 0, CPU, ranks=ranks)
    net = mlp()
    recipe = configure("nat", "blobs", {"steps": STEPS, "batch": BATCH})
    under_way = Training(net, recipe.optimiser_for(net.parameters()), Path("none"), "test", report, ranks=ranks)
    recipe.train(under_way, data, ())
    return report.seen


def test_a_process_that_is_stopped_when_another_has_ended_names_the_other(tmp_path):
    def work(ranks):
        try:
            return trained_each(ranks, Noted(at=3 if ranks.rank == 1 else None, number=signal.SIGKILL))
        except UserError:
            raise KeyboardInterrupt  # noqa: B904 (as a handler of SIGTERM does)

    forks = Forks(2, tmp_path, work)
    assert forks.codes() == [2, -signal.SIGKILL]
    (error,) = forks.errors()
    assert error.startswith("RankLostError: another process of this training has ended")


def test_an_error_of_one_process_is_shown_once_and_ends_all(tmp_path):
    def work(ranks):
        if ranks.rank == 1:
            raise UserError("the file is missing here")
        return trained(ranks, "nat")

    forks = Forks(3, tmp_path, work)
    assert forks.codes() == [2, 2, 2]
    assert forks.errors() == ["UserError: the file is missing here"]


def test_processes_of_one_machine_listen_on_loopback_alone(tmp_path):
    if not Path("/proc/net/tcp").exists():
        pytest.skip("only Linux lists sockets there")

    def work(ranks):
        trained(ranks, "nat", steps=1)
        ranks.any(False)
        return [line[1] for line in listening([os.getpid()]) if len(line) > 9]  # of the internet

    forks = Forks(2, tmp_path, work)
    store = f":{forks.store.port:04X}"
    found = {address for addresses in forks.results() for address in addresses if not address.endswith(store)}
    assert found
    assert {address.rpartition(":")[0] for address in found} <= {"0100007F", "00000000000000000000000001000000"}


def toy():
    return Split.whole("toy:train", torch.rand(64, 1, 8, 8), torch.arange(64) % 2, 2)


def order(folder, ranks, name="nat", **settings):
    recipe = configure(name, "toy", {"steps": 4, "batch": 16, **settings})
    threats = tuple(map(parse, LEARNT[name]))
    return Order(recipe, threats, "toy", "digits-cnn", 0, folder / "m", "robench train", ranks=ranks)


def test_only_the_first_process_writes_and_the_card_has_their_number(tmp_path):
    images = blobs(64)
    folders = [made(tmp_path / str(rank)) for rank in range(2)]

    def work(ranks):
        return make(order(folders[ranks.rank], ranks), images, CPU, Silent()) is not None

    assert Forks(2, made(tmp_path / "a"), work).results() == [True, False]
    assert sorted(path.name for path in folders[0].iterdir()) == ["m.safetensors", "m.toml"]
    assert "processes = 2" in (folders[0] / "m.toml").read_text()
    assert not any(folders[1].iterdir())
    assert Forks(2, made(tmp_path / "b"), work).results() == [True, False]  # made before
    with pytest.raises(UserError, match="exists already and was not made by this command"):
        make(order(folders[0], ALONE), images, CPU, Silent())


# What is refused


@pytest.mark.parametrize("name", ["mng_ac", "ant"])
def test_a_recipe_whose_steps_are_no_means_over_the_batch_is_refused_in_several_processes(name, tmp_path):
    with pytest.raises(UserError, match=rf"{name} trains in one process.*start it without torchrun"):
        make(order(tmp_path, Ranks(0, 2), name), blobs(64), CPU, Silent())


def test_a_batch_without_even_parts_is_refused():
    with pytest.raises(UserError, match=r"3 processes cannot share 16 images of a batch evenly; use --set batch="):
        TrainingData.of(blobs(64), 16, 0, CPU, ranks=Ranks(0, 3))
    with pytest.raises(UserError, match=r"2 processes cannot share 15 images.*4 beside pseudo-labelled images"):
        TrainingData.of(blobs(64), 30, 0, CPU, ranks=Ranks(0, 2)).beside(blobs(64))


STARTED = dict(RANK="1", WORLD_SIZE="2", LOCAL_RANK="1", LOCAL_WORLD_SIZE="2")  # noqa: C408 (shorter)
STARTED |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "none"}


@pytest.fixture
def environment(monkeypatch):
    """`environment(RANK="1")` sets these variables of torchrun, and no others."""

    def put(**variables):
        for name in STARTED:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put


def test_a_process_is_one_of_several_where_torchrun_has_started_it(environment):
    environment()
    assert not launched()
    environment(WORLD_SIZE="1")
    assert not launched()
    environment(**STARTED)
    assert launched()
    environment(**{name: value for name, value in STARTED.items() if name != "TORCHELASTIC_RUN_ID"})
    assert launched()  # by another program that sets the same variables


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"RANK": ""}, "but RANK is missing: start them with `torchrun --nproc-per-node N -m robench train ...`"),
        ({"RANK": "", "MASTER_PORT": ""}, "but RANK, MASTER_PORT are missing"),
        ({"LOCAL_RANK": "one"}, "LOCAL_RANK='one' is no number; let torchrun set it"),
        ({"RANK": "2"}, "RANK=2 is not below WORLD_SIZE=2"),
    ],
)
def test_a_wrong_launch_is_refused(environment, changed, error):
    environment(**STARTED | changed)
    with pytest.raises(UserError, match=r".*") as raised:
        launched()
    assert error in str(raised.value)


def test_gpus_are_given_to_the_processes_of_a_machine_in_turn(environment, monkeypatch):
    environment(**STARTED | {"LOCAL_RANK": "5"})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert local_device(torch.device("cuda")) == torch.device("cuda", 1)
    with pytest.raises(UserError, match=r"--device cuda:3 names one GPU for several processes; --device cuda gives"):
        local_device(torch.device("cuda", 3))
    assert local_device(CPU) == CPU


@pytest.mark.costly
def test_torch_distributed_is_imported_by_one_module_when_torchrun_has_started_it():
    importing = []
    for path in Path(robench.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        names = [f"{getattr(node, 'module', '')}.{name.name}" for node in nodes for name in node.names]
        if any("torch.distributed" in name for name in names):
            importing.append(path.name)
            assert not any(node in tree.body and "distributed" in ast.dump(node) for node in nodes)
    assert importing == ["data_parallel.py"]


def test_the_launcher_is_part_of_the_command_on_the_card():
    assert ALONE.launcher == ""
    assert Ranks(0, 4, 4, object()).launcher == "torchrun --nproc-per-node 4 -m "
    assert Ranks(0, 4, 2, object()).launcher == "torchrun --nnodes 2 --nproc-per-node 2 -m "


def made(folder):
    folder.mkdir()
    return folder


STEPS_AND_LEAVES = """
import os, torch
from pathlib import Path
from robench.recipes.data_parallel import together

def work(ranks):
    weight = torch.zeros(1, requires_grad=True)
    weight.sum().backward()
    torch.optim.SGD([weight], lr=1.0).step()
    ranks.average([weight])
    assert any("gloo" in name for name in threads()), threads()
    return 0

def threads():
    return [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]

together(torch.device("cpu"), work)
assert not any("gloo" in name for name in threads()), threads()
"""


@pytest.mark.processes
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the names of threads are read from /proc")
def test_no_thread_of_the_group_is_left_when_the_work_has_ended():
    """A thread that is left runs while Python shuts down, and then may abort the process."""
    own = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", STEPS_AND_LEAVES]
    ended = subprocess.run(command, env=os.environ | own | {"MASTER_PORT": str(port)}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
