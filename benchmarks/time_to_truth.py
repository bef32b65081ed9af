"""What protocols leave of the bundled models, and in which time, beside AutoAttack in its authors' code and Foolbox.

    python benchmarks/time_to_truth.py --references [autoattack] [foolbox]
    python benchmarks/time_to_truth.py [--protocol NAME ...] [--model NAME ...] [--seeds N] [--timed N] [--pairs N]
                                       [--again | --report]

`--references` runs AutoAttack once for every model and norm, and Foolbox's strongest attacks for some models, and keeps
slim run files in benchmarks/references; what is there is not run again. The second command compares outcomes on the
same images, ours with several seeds, and the CPU seconds of one thread that each takes for the first images, in turn.
It keeps every measured row in benchmarks/results/time-to-truth-rows.json at once, and measures only what is missing
there, or what was measured with other attacks or numbers; with `--again` everything, with `--report` nothing. It writes
a table for each protocol, and a plot of all of them.

Foolbox's Brendel-Bethge needs numba: without it, Foolbox is not timed, and makes no references.
"""

import argparse
import functools
import importlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from measuring import RESULTS, machine, seconds, write_results
from truth_rows import AUTOATTACK, FOOLBOX, Measured, keep, picture, read, table

import robench
from robench import protocols
from robench.evaluation.environment import commit
from robench.results.figures import image_bytes

HERE = Path(__file__).resolve().parent
REFERENCES = HERE / "references"
ROWS = RESULTS / "time-to-truth-rows.json"
PLOT = RESULTS / "time-to-truth.svg"
EXAMPLES = 200
RADII = {"digits": ("linf:0.2", "l2:2", "l1:10"), "mnist": ("linf:0.3", "l2:2", "l1:10")}
MODELS = (
    *(f"digits-{name}" for name in ("eat", "adaptive", "sat", "adv-linf", "adv-l2", "adv-l1", "adv-rt", "nat")),
    *(f"mnist-{name}" for name in ("adv-linf", "adv-max", "eat-l1r14")),
)
THEIR_MODELS = {AUTOATTACK: MODELS, FOOLBOX: ("digits-eat", "digits-adv-linf", "digits-sat")}
THEIR_ATTACKS: dict[str, dict[str, tuple[str, ...]]] = {  # cheapest first: each searches what those before it leave
    AUTOATTACK: dict.fromkeys(("linf", "l2", "l1"), ("autoattack-reference",)),
    FOOLBOX: {
        "linf": (
            "foolbox:LinfPGD(steps=100, rel_stepsize=0.025, restarts=5)",
            "foolbox:LInfFMNAttack(steps=500)",
            "foolbox:LinfinityBrendelBethgeAttack(steps=500)",
        ),
        "l2": (
            "foolbox:DDNAttack(steps=500)",
            "foolbox:L2FMNAttack(steps=500)",
            "foolbox:L2CarliniWagnerAttack(steps=200)",
            "foolbox:L2BrendelBethgeAttack(steps=500)",
        ),
        "l1": (
            "foolbox:L1FMNAttack(steps=500)",
            "foolbox:EADAttack(steps=200, decision_rule=L1)",
            "foolbox:L1BrendelBethgeAttack(steps=500)",
        ),
    },
}
CPU = torch.device("cpu")
Row = dict[str, object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--references", nargs="*", metavar="NAME", help="make the missing runs of these, or of all")
    parser.add_argument("--model", action="append", choices=MODELS, help="default: all")
    parser.add_argument("--protocol", action="append", help="default: standard")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--timed", type=int, default=50, help="images that are timed; 0 for none")
    parser.add_argument("--pairs", type=int, default=1, help="timings of each")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--again", action="store_true", help="measure what is measured already")
    how.add_argument("--report", action="store_true", help="measure nothing: tables and plot of what is there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pairs = [(model, threat) for model in args.model or MODELS for threat in RADII[data_of(model)]]
    if args.references is not None:
        make_references(args.references, pairs)
        return
    present = [pair for pair in pairs if reference_file(*pair, AUTOATTACK).exists()]
    if not present:
        sys.exit("there is no reference of these models; make it with --references")
    found: list[Measured] = []
    for name in dict.fromkeys(args.protocol or ["standard"]):
        question = Question(name, args.seeds, args.timed, args.pairs)
        measured = [row for pair in present if (row := measured_row(question, *pair, args)) is not None]
        if measured:
            write_table(question, measured, len(pairs), args)
        else:
            print(f"nothing is measured of {name}", file=sys.stderr)
        found += measured
    if made := picture(found, their_outcomes(present)):
        PLOT.write_bytes(image_bytes(made, "svg"))


@dataclass(frozen=True)
class Question:
    """What is measured for each pair of a model and a threat."""

    protocol: str
    seeds: int
    timed: int
    pairs: int

    def attacks(self, model: str, threat: str) -> list[str]:
        """The protocol's attacks under a threat, with every number."""
        (choice,) = protocols.load(self.protocol, data_of(model)).with_threats([threat]).threats
        return [described(attack) for attack in choice.attacks]

    def is_answered_by(self, row: Measured) -> bool:
        """Whether a row was measured with these numbers and with the protocol's present attacks."""
        numbers = (len(row.outcomes), row.timed, row.pairs, row.attacks)
        return numbers == (self.seeds, self.timed, self.pairs, self.attacks(row.model, row.threat))


def described(choice: protocols.AttackChoice) -> str:
    """An attack of a protocol as text, with everything but its label."""
    plan = {key: value for key, value in vars(choice).items() if key not in ("label", "attack") and value is not None}
    return " ".join([choice.attack.spec, *(f"{key}={value}" for key, value in plan.items())])


def data_of(model: str) -> str:
    """The data set of a bundled model."""
    return model.partition("-")[0]


def norm_of(threat: str) -> str:
    """The name before the radius."""
    return threat.partition(":")[0]


# References.


def reference_file(model: str, threat: str, reference: str) -> Path:
    """The committed run of a reference."""
    library = "" if reference == AUTOATTACK else f"{reference.lower()}-"
    return REFERENCES / f"{library}{model}-{norm_of(threat)}.robench"


def make_references(named: Sequence[str], pairs: Sequence[tuple[str, str]]) -> None:
    """Makes the missing runs of the references with these names, or of all."""
    known = {reference.lower(): reference for reference in THEIR_ATTACKS}
    if unknown := [name for name in named if name.lower() not in known]:
        sys.exit(f"there is no reference {unknown[0]}; there are {', '.join(known)}")
    for reference in [known[name.lower()] for name in named] or THEIR_ATTACKS:
        for model, threat in pairs:
            if model in THEIR_MODELS[reference]:
                make_reference(model, threat, reference)


def make_reference(model: str, threat: str, reference: str) -> None:
    """Runs a reference to the end and keeps its run file, without images, where there is none yet."""
    target = reference_file(model, threat, reference)
    if target.exists():
        return
    if reference == FOOLBOX and not has_numba():
        sys.exit("Foolbox's Brendel-Bethge needs numba; install it with: pip install numba")
    REFERENCES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        run, slim = Path(folder) / "run.robench", Path(folder) / "slim.robench"
        summary = evaluated(model, threat, attacks=THEIR_ATTACKS[reference][norm_of(threat)], run=run)
        if summary.union.open:
            sys.exit(f"{reference} did not end on {model} under {threat}")
        words = [sys.executable, "-m", "robench", "merge", str(run), "--slim", "--out", str(slim)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        shutil.move(slim, target)
    print(f"{target.name}: {summary.union.standing} of {EXAMPLES} stand", file=sys.stderr, flush=True)


@functools.cache
def has_numba() -> bool:
    """Whether numba can be imported. It imports `coverage`, which must not be benchmarks/coverage.py."""
    path = list(sys.path)
    try:
        sys.path[:] = [entry for entry in path if Path(entry).resolve() != HERE]
        importlib.import_module("numba")
    except ImportError:
        return False
    finally:
        sys.path[:] = path
    return True


@functools.cache
def compiled(model: str, threat: str) -> None:
    """Runs Foolbox's Brendel-Bethge on a few images, so that numba's half a minute of compiling is not timed."""
    evaluated(model, threat, attacks=THEIR_ATTACKS[FOOLBOX][norm_of(threat)][-1:], examples=3)


def their_outcomes(pairs: Sequence[tuple[str, str]]) -> dict[str, dict[tuple[str, str], str]]:
    """The outcomes of each reference on each pair that it has a run of."""
    return {
        reference: {pair: loaded(*pair, reference).union.outcomes for pair in pairs if has_reference(*pair, reference)}
        for reference in THEIR_ATTACKS
    }


def has_reference(model: str, threat: str, reference: str) -> bool:
    """Whether there is a run of this reference."""
    return reference_file(model, threat, reference).exists()


@functools.cache
def loaded(model: str, threat: str, reference: str) -> robench.Summary:
    """The summary of a committed run."""
    return robench.load_run(reference_file(model, threat, reference))


# Measuring.


def evaluated(
    model: str,
    threat: str,
    *,
    examples: int = EXAMPLES,
    seed: int = 0,
    run: Path | None = None,
    protocol: str | None = None,
    attacks: Sequence[str] = (),
) -> robench.Summary:
    """A new evaluation in float32."""
    return robench.evaluate(
        model,
        threats=[threat],
        protocol=protocol,
        attacks=attacks,
        examples=examples,
        seed=seed,
        run=run,
        precision="float32",
    )


def measured_row(question: Question, model: str, threat: str, args: argparse.Namespace) -> Measured | None:
    """The row of this pair: the one on file, where it answers the question, else a new one, which is kept there."""
    name = f"{question.protocol} {model} {threat}"
    row = read(ROWS).get(name)
    if row is not None and not args.again and question.is_answered_by(row):
        return row
    if args.report:
        return None
    row = measure(question, model, threat)
    print(row, file=sys.stderr, flush=True)
    keep(ROWS, read(ROWS) | {name: row})
    return row


def measure(question: Question, model: str, threat: str) -> Measured:
    """What a protocol leaves with each seed, and what it and the references take for the first images."""
    protocol = question.protocol
    ours = [evaluated(model, threat, protocol=protocol, seed=seed) for seed in range(question.seeds)]
    for reference in THEIR_ATTACKS:
        if has_reference(model, threat, reference):
            same = loaded(model, threat, reference).data.sha256 == ours[0].data.sha256
            assert same, f"{protocol} and {reference} are about the same images"
    taken, gradients = timed(question, model, threat) if question.timed else ({}, {})
    return Measured(
        protocol=protocol,
        model=model,
        threat=threat,
        attacks=question.attacks(model, threat),
        outcomes=[summary.union.outcomes for summary in ours],
        timed=question.timed,
        pairs=question.pairs,
        seconds=taken,
        gradients=gradients,
        machine=machine(CPU),
        commit=commit(CPU),
    )


def timed(question: Question, model: str, threat: str) -> tuple[dict[str, float], dict[str, int]]:
    """The median CPU seconds and the gradients on the first images, of the protocol and of each reference, in turn."""
    given: dict[str, dict[str, object]] = {question.protocol: {"protocol": question.protocol}}
    for reference, attacks in THEIR_ATTACKS.items():
        if has_reference(model, threat, reference) and (reference != FOOLBOX or has_numba()):
            given[reference] = {"attacks": attacks[norm_of(threat)]}
    if FOOLBOX in given:
        compiled(model, threat)
    found: dict[str, robench.Summary] = {}
    taken: dict[str, list[float]] = {name: [] for name in given}
    for _ in range(question.pairs):
        for name, options in given.items():

            def work(name: str = name, options: dict[str, object] = options) -> None:
                found[name] = evaluated(model, threat, examples=question.timed, **options)  # type: ignore[arg-type]

            taken[name].append(seconds(work, CPU))
    return {name: median(times) for name, times in taken.items()}, {
        name: summary.cost.backwards for name, summary in found.items()
    }


def write_table(question: Question, measured: Sequence[Measured], wanted: int, args: argparse.Namespace) -> None:
    """The table of one protocol."""
    notes = [
        f"The first {EXAMPLES} test images, float32; {question.seeds} seeds of {question.protocol}, one of the"
        f" references. Seconds and gradients are of the first {question.timed} images, medians of {question.pairs},"
        f" in turn. A sum has the columns that every row has. Command: {command(args, question.protocol)}"
    ]
    if missing := wanted - len(measured):
        notes.append(f"{missing} of {wanted} pairs have no reference, or are not measured yet.")
    machines = sorted({f"{row.machine}; commit {row.commit}" for row in measured})
    name = Path(question.protocol).stem
    rows = table(measured, their_outcomes([row.pair for row in measured]))
    write_results(f"time-to-truth-{name}", f"{name}, AutoAttack and Foolbox", rows, notes, CPU, machines)


def command(args: argparse.Namespace, protocol: str) -> str:
    """The command that makes one table."""
    models = "".join(f" --model {model}" for model in args.model or ())
    numbers = f" --seeds {args.seeds} --timed {args.timed} --pairs {args.pairs}"
    return f"python benchmarks/time_to_truth.py --protocol {protocol}{models}{numbers}"


if __name__ == "__main__":
    main()
