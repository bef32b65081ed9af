"""`robench plan`: the commands of a suite, as a shell and as Slurm run them."""

import os
import shlex
import signal
import subprocess
import time

import pytest

from robench.cli import plan
from robench.protocols.cost import Rate

TINY = """
name = "tiny"
examples = 7

[[threat]]
threat = "linf:0.1"
attacks = [{ attack = "pgd", steps = 2, restarts = 3 }, { attack = "square", steps = 5 }]
"""

SUITE = """
models = ["digits-nat", { checkpoint = "digits-adv-linf", data = "digits" }]
protocols = ["it's tiny; $HOME.toml"]
seed = 1
"""


@pytest.fixture
def suite(folder):
    (folder / "it's tiny; $HOME.toml").write_text(TINY)
    (folder / "suite.toml").write_text(SUITE)
    return "suite.toml"


def commands(text):
    """The words of each command that begins with robench, as a shell reads them."""
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [words[1:] for words in lines if words[:1] == ["robench"]]


@pytest.mark.costly
@pytest.mark.parametrize("shards", [1, 2])
def test_the_printed_commands_give_the_table_of_the_evaluations_without_shards(robench, suite, folder, shards):
    printed = robench("plan", suite, "--shards", shards, "--out", "the runs", "--no-estimate")
    assert printed.code == 0, printed
    (folder / "the runs").mkdir()
    results = [robench(*words) for words in commands(printed.out)]
    assert len(results) == 2 * shards + (4 if shards > 1 else 0) + 1
    assert [result.code for result in results] == [0] * len(results)
    for model in ("digits-nat", "digits-adv-linf"):
        robench("evaluate", model, "--protocol", "it's tiny; $HOME.toml", "--seed", 1, "--run", f"{model}.robench")
    assert results[-1].out == robench("report", "digits-nat.robench", "digits-adv-linf.robench").out


@pytest.fixture
def slurm(robench, suite, folder):
    """The script, and programs that stand for robench and scontrol and write down their words."""
    (folder / "suite.sh").write_text(robench("plan", suite, "--shards", 3, "--format", "slurm", "--no-estimate").out)
    (folder / "bin").mkdir()
    robench_words = 'printf "%s\\n" "$@" > words\n'
    for name, body in (("robench", robench_words), ("scontrol", 'printf "%s\\n" "$@" > requeued\n')):
        (folder / "bin" / name).write_text(f"#!/bin/bash\n{body}")
        (folder / "bin" / name).chmod(0o755)
    return {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "SLURM_ARRAY_JOB_ID": "12"}


def test_each_task_of_the_slurm_script_is_one_of_the_commands(robench, slurm, suite, folder):
    wanted = commands(robench("plan", suite, "--shards", 3, "--no-estimate").out)[:6]
    assert "#SBATCH --array=0-5\n" in (folder / "suite.sh").read_text()
    for number, words in enumerate(wanted):
        subprocess.run(["bash", "suite.sh"], env=slurm | {"SLURM_ARRAY_TASK_ID": str(number)}, check=True, timeout=60)
        assert (folder / "words").read_text().splitlines() == words
    beyond = subprocess.run(["bash", "suite.sh"], env=slurm | {"SLURM_ARRAY_TASK_ID": "6"}, check=False, timeout=60)
    assert beyond.returncode == 2


def test_the_end_of_the_slurm_script_merges_once_and_reports(slurm, folder):
    (folder / "bin" / "robench").write_text(
        '#!/bin/bash\nprintf "%s\\n" "$1" >> words\n[ "$1" != merge ] || touch "${@: -1}"\n'
    )
    checks = ["evaluate", "evaluate"]  # for gradient masking; there is nothing to merge again
    for words in (["merge", "merge", *checks], checks):
        (folder / "words").unlink(missing_ok=True)
        subprocess.run(["bash", "suite.sh", "end"], env=slurm, check=True, timeout=60)
        assert (folder / "words").read_text().split() == [*words, "report"]


def test_a_task_whose_time_ends_stops_robench_and_goes_back_into_the_queue(slurm, folder):
    (folder / "bin" / "robench").write_text(
        "#!/bin/bash\ntrap 'touch stopped; exit 130' TERM\ntouch started\nwhile true; do sleep 0.05; done\n"
    )
    with subprocess.Popen(["bash", "suite.sh"], env=slurm | {"SLURM_ARRAY_TASK_ID": "4"}) as task:
        deadline = time.monotonic() + 60
        while not (folder / "started").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        task.send_signal(signal.SIGUSR1)
        task.wait(60)
    assert (folder / "stopped").exists()
    assert (folder / "requeued").read_text().split() == ["requeue", "12_4"]


def test_the_hours_are_those_of_every_example_of_the_shard_standing(robench, suite, monkeypatch):
    monkeypatch.setattr(plan.cost, "measured_rate", lambda _: Rate(gradients=0.01, forwards=0.1))
    lines = [line for line in robench("plan", suite, "--shards", 2).out.splitlines() if "--shard " in line]
    each = 3 * (2 + 1) / 0.01 + 5 / 0.1  # seconds: a start and two steps of three restarts, and the steps of square
    hours = [float(line.rpartition("at most ")[2].split()[0]) for line in lines]
    assert hours == pytest.approx([4 * each / 3600, 3 * each / 3600] * 2, rel=0.06)
    script = robench("plan", suite, "--shards", 2, "--format", "slurm").out
    assert "#SBATCH --time=0-01:" in script  # one and a half times 1.06 hours
    assert "upper bounds" in script


def test_planning_runs_no_code_that_a_suite_names(robench, folder):
    (folder / "evil.py").write_text("open('ran', 'w')\n")
    (folder / "suite.toml").write_text('models = [{ checkpoint = "m.pt", arch = "evil.py:net", data = "digits" }]\n')
    result = robench("plan", "suite.toml", "--shards", 2)
    assert result.code == 0
    assert "The hours of m.pt are not estimated: its architecture is code" in result.out
    assert "at most" not in result.out
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "suite.toml is no suite: `models` is missing"),
        ("models = []", "suite.toml is no suite: `models` must be a list of at least 1 value"),
        ('models = "digits-nat"', "suite.toml is no suite: `models` must be a list, and is a text"),
        ('models = [""]', "suite.toml is no suite: `models[0]` must be a text of at least 1 character"),
        ('modles = ["a"]', "no key of a suite is called 'modles'; did you mean models or examples?"),
        ('models = [{ checkpoint = "a", archs = "b" }]', "no key of a model is called 'archs'; did you mean arch?"),
        ('models = ["a"]\nseed = -1', "suite.toml is no suite: `seed` must be a whole number of at least 0"),
        ('models = ["a", "a"]', "suite.toml names an evaluation of a twice; name it once"),
        ('models = ["-rf"]', "suite.toml names '-rf', which no command takes; write it in another way"),
        ('models = ["a\\nb"]', "suite.toml names 'a\\nb', which no command takes; write it in another way"),
        ("models = [", "suite.toml is not valid TOML"),
        ("models = [1]", "`robench plan --help` lists its keys, as in models = ['digits-nat', 'digits-adv-linf']"),
        ('models = ["digits-nat"]\nprotocols = ["quik"]', "quik"),
        ('models = ["digits-nat"]\nexamples = 5', "--shard 6/6 holds none of the 5 examples; name fewer shards"),
    ],
)
def test_a_suite_that_cannot_be_evaluated_is_refused_in_one_sentence(refused, folder, text, error):
    (folder / "suite.toml").write_text(text)
    assert error in refused("plan", "suite.toml", "--shards", 6)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ('examples = "few"', "suite.toml: --examples few: write a count like 100"),
        ('examples = "9:5"', "suite.toml: --examples 9:5 is empty"),
        ('masking = "yes"', "suite.toml: no level of --masking is called 'yes'; there are auto, deep, off, on"),
        ('precision = "half"', "suite.toml: no precision is called 'half'"),
        ('protocols = ["quik"]', "suite.toml: no protocol is called 'quik'; did you mean quick"),
    ],
)
def test_a_value_that_no_evaluation_takes_is_refused_without_an_estimate_too(refused, folder, line, error):
    (folder / "suite.toml").write_text(f'models = ["digits-nat"]\n{line}\n')
    assert error in refused("plan", "suite.toml", "--no-estimate")


def test_a_format_a_number_or_a_file_that_does_not_exist_is_refused(refused, suite):
    assert "no --format of a plan is called 'slrum'; did you mean slurm?" in refused("plan", suite, "--format", "slrum")
    assert "--shards 0 is out of range" in refused("plan", suite, "--shards", 0)
    assert "nothing.toml" in refused("plan", "nothing.toml")
