"""A program of a stranger runs in a process that can only compute, and answers bit for bit as it would here."""

import copy
import gc
import io
import json
import os
import pickle
import signal
import socket
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import robench
from robench.errors import ProgramEnded, UserError
from robench.problem.checkpoints import load
from robench.problem.checkpoints.confinement import (
    NotConfined,
    kernel,
    limits,
    process,
)
from robench.problem.checkpoints.exported import read_program
from robench.problem.checkpoints.programs import Program, confinement
from robench.problem.classifier import Classifier, weights_sha256
from robench.problem.memory import out_of_memory
from robench.search.engine.precision import multiply_adds
from robench.search.engine.rounding import rounded

from .confining import ALLOCATING, HARMFUL, LOOPING, confined, saved, scripted
from .programs import PROGRAMS

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux confines a process"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]

SHAPE = (1, 8, 8)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def classifier(module):
    return Classifier(module, name="m", architecture="a", shape=SHAPE, classes=10)


def answers(model, x):
    """Logits, their gradient, and the next random number, after one seed."""
    torch.manual_seed(1)
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(logits, torch.zeros(len(x)).long()), leaf)
    return logits.detach(), gradient, torch.rand(1)


@pytest.mark.costly
@pytest.mark.parametrize("name", PROGRAMS)
def test_logits_gradients_noise_and_weights_are_those_of_the_program_itself(name):
    torch.manual_seed(0)
    data = saved(torch.jit.script(PROGRAMS[name]().eval()))
    here, there = classifier(Program(torch.jit.load(io.BytesIO(data)).float())), classifier(confined(data))
    for rows in (4, 4, 3):  # torch compiles a program again in its first passes
        x = torch.rand(rows, *SHAPE)
        for one, other in zip(answers(here, x), answers(there, x), strict=True):
            assert torch.equal(one, other)
            assert one.stride() == other.stride()
        with torch.no_grad():
            torch.manual_seed(2)
            one = here(x)
            torch.manual_seed(2)
            assert torch.equal(one, there(x))
    assert weights_sha256(here.module) == weights_sha256(there.module)
    assert [p.shape for p in here.module.parameters()] == [p.shape for p in there.module.parameters()]


def test_exported_programs_answer_as_they_do_here(tmp_path):
    path = tmp_path / "m.pt2"
    example = (torch.zeros(2, *SHAPE),)
    dynamic = ({0: torch.export.Dim("N")},)
    torch.export.save(torch.export.export(PROGRAMS["residual"]().eval(), example, dynamic_shapes=dynamic), path)
    here, there = classifier(read_program(path)), classifier(confined(path.read_bytes(), "exported"))
    x = torch.rand(5, *SHAPE)
    assert all(map(torch.equal, answers(here, x), answers(there, x)))
    assert weights_sha256(here.module) == weights_sha256(there.module)


def test_the_search_copy_in_bfloat16_is_made_and_counted_in_the_process():
    data = saved(torch.jit.script(PROGRAMS["residual"]().eval()))
    here, there = classifier(Program(torch.jit.load(io.BytesIO(data)).float())), classifier(confined(data))
    x = torch.rand(4, *SHAPE)
    assert all(map(torch.equal, answers(rounded(here), x), answers(rounded(there), x)))
    assert multiply_adds(here) == multiply_adds(there)
    with pytest.raises(UserError, match="no convolution or dense layer"):
        confined(scripted("return x.flatten(1)")).rounded(channels_last=True)


def test_a_copy_has_a_state_of_its_own():
    counting = torch.jit.script(PROGRAMS["control flow"]().eval())
    program = classifier(confined(saved(counting))).module
    program(torch.rand(1, *SHAPE))
    other = copy.deepcopy(program)
    program(torch.rand(1, *SHAPE))
    assert (program.state_dict()["seen"].item(), other.state_dict()["seen"].item()) == (2, 1)


def test_a_program_cannot_be_pickled():
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(confined(scripted("return x.flatten(1)")))


def test_containers_come_back_as_they_are():
    class Several(nn.Module):
        def forward(self, x: Tensor) -> tuple[dict[str, Tensor], list[Tensor], int]:
            return {"logits": x.flatten(1), "label": x.flatten(1).argmax(1)}, [x.mean(), x > 0.5], 7

    x = torch.rand(2, *SHAPE, requires_grad=True)
    named, listed, number = confined(saved(torch.jit.script(Several())))(x)
    assert torch.equal(named["logits"], x.flatten(1))
    assert named["logits"].requires_grad
    assert not named["label"].requires_grad
    assert not listed[1].requires_grad
    assert listed[1].dtype == torch.bool
    assert type(number).__name__ == "int"
    (gradient,) = torch.autograd.grad(named["logits"].sum() + 3 * listed[0], x)
    assert torch.allclose(gradient, torch.tensor(1 + 3 / x.numel()))


def test_an_error_of_the_program_has_its_name_and_message():
    program = confined(saved(torch.jit.script(PROGRAMS["control flow"]().eval())))
    with pytest.raises(RuntimeError, match="expected 64 pixels, got 32") as raised:
        program(torch.rand(1, 1, 4, 8))
    assert type(raised.value).__name__ == "Error"
    assert program(torch.rand(1, *SHAPE)).shape == (1, 10)  # and it goes on


def test_graphs_and_programs_end_with_their_last_reference():
    program = confined(saved(torch.jit.script(PROGRAMS["small"]().eval())))
    x = torch.rand(2, *SHAPE, requires_grad=True)
    logits = program(x)
    running = program.process
    assert not running.unused_graphs
    del logits
    gc.collect()
    assert len(running.unused_graphs) == 1
    pid = running.pid
    del program, running
    gc.collect()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("what", HARMFUL)
def test_a_program_past_the_check_cannot_use_files(what):
    Path("secret").write_bytes(bytes(16))
    program = confined(scripted(HARMFUL[what]))
    with pytest.raises(RuntimeError, match="Operation not permitted"):
        program(torch.rand(1, *SHAPE))
    assert os.listdir() == ["secret"]


def test_memory_without_end_is_a_shortage_of_memory():
    program = confined(scripted(ALLOCATING))
    with pytest.raises(RuntimeError, match="can't allocate memory") as raised:
        program(torch.rand(1, *SHAPE))
    assert out_of_memory(raised.value)


def test_a_loop_without_end_is_ended_in_one_sentence_and_stays_ended(monkeypatch):
    program = confined(scripted("i = 0\nwhile True:\n    i += 1\nreturn x + i"))
    monkeypatch.setenv(process.VARIABLE, "1")
    for _ in range(2):
        with pytest.raises(ProgramEnded, match="gave no answer about 2 images within 1 seconds") as raised:
            program(torch.rand(2, *SHAPE))
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "0", "1.5", "-3", "soon"])
def test_a_wrong_time_limit_is_refused(monkeypatch, text):
    monkeypatch.setenv(process.VARIABLE, text)
    with pytest.raises(UserError, match="number of seconds such as 600"):
        process.seconds_for(2)


def test_a_killed_process_is_said_in_one_sentence():
    program = confined(scripted("return x.flatten(1)"))
    os.kill(program.process.pid, signal.SIGKILL)
    with pytest.raises(ProgramEnded, match="killed by the system, often for lack of memory; its process"):
        program(torch.rand(1, *SHAPE))


def test_an_interruption_ends_the_process(monkeypatch):
    program = confined(scripted("i = 0\nwhile True:\n    i += 1\nreturn x + i"))

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            program(torch.rand(1, *SHAPE))
    finally:
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(ProgramEnded, match="was stopped"):
        program(torch.rand(1, *SHAPE))


def attempts():
    """What the process must not be able to do, by name."""
    return {
        "open": lambda: os.open("/dev/null", os.O_RDONLY),
        "write": lambda: os.open("W", os.O_WRONLY | os.O_CREAT),
        "list": lambda: os.listdir("/"),
        "look": lambda: os.stat("/"),
        "remove": lambda: os.unlink("victim"),
        "connect": lambda: socket.socket(),
        "pair": lambda: socket.socketpair(),
        "fork": os.fork,
        "execute": lambda: os.execv("/bin/true", ["true"]),
        "kill": lambda: os.kill(os.getppid(), signal.SIGCONT),
        "trace": lambda: _call(101, 0),
        "memory of others": lambda: _call(310, os.getppid()),
        "another interface": lambda: _call(425, 1, 0),  # io_uring
        "mount": lambda: _call(165, 0),
        "descriptor": lambda: os.memfd_create("m"),
        "session": os.setsid,
        "lower rights": lambda: os.setuid(12345),
    }


def _call(number, *arguments):
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of system calls are those of x86_64")
def test_the_process_can_do_nothing_but_compute():
    Path("victim").write_text("")
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        import ctypes  # noqa: F401 - not to be opened later

        tried = attempts()
        by = kernel.forbid_all_but_computing()
        found = {}
        for name, attempt in tried.items():
            try:
                attempt()
                found[name] = 0
            except OSError as error:
                found[name] = error.errno
        torch.set_num_threads(2)  # threads are allowed
        found["sum"] = int(torch.ones(1 << 20).sum())
        os.write(write, json.dumps([by, found]).encode())
        os._exit(0)
    os.close(write)
    by, found = json.loads(os.read(read, 1 << 16))
    os.waitpid(pid, 0)
    assert by.startswith("seccomp")
    assert found.pop("sum") == 1 << 20
    assert set(found.values()) <= {1, 13}, found
    assert set(found) == set(attempts())
    assert os.listdir() == ["victim"]


def test_without_landlock_the_filter_alone_forbids_files(monkeypatch):
    monkeypatch.setattr(kernel, "_restrict_files", lambda libc: False)
    program = confined(scripted(HARMFUL["reads a file"]))
    assert program.confined_by == "seccomp"
    with pytest.raises(RuntimeError, match="Operation not permitted"):
        program(torch.rand(1, *SHAPE))


def test_where_the_system_has_no_means_the_program_runs_here_and_the_run_says_so(monkeypatch):
    def lacking(*arguments):
        raise NotConfined("the kernel accepts no filter of system calls (Function not implemented)")

    monkeypatch.setattr(kernel, "_set_filter", lacking)
    Path("m.pt").write_bytes(saved(torch.jit.script(PROGRAMS["small"]().eval())))
    loaded = load("m.pt", shape=SHAPE)
    assert confinement(loaded.classifier.module).startswith("nothing: the kernel accepts no filter")
    assert any("is not confined: the kernel accepts no filter" in note for note in loaded.notes)


def test_a_trusted_program_runs_here():
    Path("m.pt").write_bytes(saved(torch.jit.script(PROGRAMS["small"]().eval())))
    loaded = load("m.pt", shape=SHAPE, trust_pickle=True)
    assert confinement(loaded.classifier.module) == "nothing: its file is trusted"
    assert not any("confined" in note for note in loaded.notes)


def test_the_process_gets_no_secrets_and_a_share_of_the_memory(tmp_path):
    given = {"HOME": "/home/me", "HF_TOKEN": "secret", "OMP_NUM_THREADS": "2", "LD_LIBRARY_PATH": "/lib"}
    assert limits.environment(given).keys() == {
        *("OMP_NUM_THREADS", "LD_LIBRARY_PATH", "OPENBLAS_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    }
    system = tmp_path / "meminfo"
    system.write_text("MemTotal: 100 kB\nMemAvailable: 50 kB\n")
    assert limits.free_memory(system, tmp_path) == 51200
    (tmp_path / "memory.max").write_text("30000\n")
    (tmp_path / "memory.current").write_text("10000\n")
    assert limits.free_memory(system, tmp_path) == 20000
    (tmp_path / "memory.max").write_text("max\n")
    assert limits.free_memory(system, tmp_path) == 51200


def test_in_python_a_program_without_end_is_a_user_error(monkeypatch):
    monkeypatch.setenv(process.VARIABLE, "1")
    Path("m.pt").write_bytes(scripted(LOOPING))
    with pytest.raises(UserError, match="gave no answer"):
        robench.evaluate("m.pt", "digits", threats=["linf:0.1"], examples=4)


def test_a_run_keeps_what_was_found_before_the_process_ended_and_goes_on(monkeypatch):
    Path("m.pt").write_bytes(scripted("return x.flatten(1)[:, 40:50]"))
    question = {"threats": ["linf:0.2"], "attacks": "pgd(steps=3)", "examples": 40, "run": "r.robench"}
    call, gradients = process.Process.call, []

    def ending(running, op, *arguments, **settings):
        gradients.extend(["one"] * (op == "backward"))
        if len(gradients) == 6:  # the search has begun
            os.kill(running.pid, signal.SIGKILL)
        return call(running, op, *arguments, **settings)

    with monkeypatch.context() as patched:
        patched.setattr(process.Process, "call", ending)
        with pytest.raises(UserError, match="was killed by the system"):
            robench.evaluate("m.pt", "digits", **question)
    before = robench.load_run("r.robench")
    assert before.clean.correct > 0
    assert before.union.open > 0
    after = robench.evaluate("m.pt", "digits", **question)
    assert (after.clean, after.union.open) == (before.clean, 0)
    assert after.environment["confinement"].startswith("seccomp")
