"""What protocols leave of the bundled models, and in which time, beside AutoAttack in its authors' code and Foolbox.

    python benchmarks/time_to_truth.py --references [autoattack] [foolbox]
    python benchmarks/time_to_truth.py [--protocol NAME ...] [--model NAME ...] [--seeds N] [--timed N] [--pairs N]
                                       [--precision bfloat16] [--again | --report]

`--references` runs AutoAttack once for every model and norm, and Foolbox's strongest attacks for some models, and keeps
slim run files in benchmarks/references; what is there is not run again. The second command compares outcomes on the
same images, ours with several seeds, and the CPU seconds of one thread that each takes for the first images, in turn.
It keeps every measured row in benchmarks/results/time-to-truth-rows.json at once, and measures only what is missing
there, or what was measured with other attacks or numbers, or fewer seeds; with `--again` everything, with `--report`
nothing. It writes a table for each protocol, and a plot of all of them; the names of results about one data set end
with its name.

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
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measuring import RESULTS, machine, seconds, write_results
from truth_rows import AUTOATTACK, FOOLBOX, TIMED, Measured, keep, picture, read, row_name, table

import robench
from robench import protocols
from robench.evaluation.environment import commit
from robench.results.figures import image_bytes

HERE = Path(__file__).resolve().parent
REFERENCES = HERE / "references"
ROWS = RESULTS / "time-to-truth-rows.json"
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
            "foolbox:LinfProjectedGradientDescentAttack(steps=100, rel_stepsize=0.025, restarts=5)",
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
    parser.add_argument("--timed", type=int, default=TIMED, help="images that are timed; 0 for none")
    parser.add_argument("--pairs", type=int, default=1, help="timings of each")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of the protocols")
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
    questions = [
        Question(name, args.seeds, args.timed, args.pairs, args.precision)
        for name in dict.fromkeys(args.protocol or ["standard"])
    ]
    found = [row for pair in present for row in measured_rows(questions, *pair, args)]
    for question in questions:
        if measured := [row for row in found if row.protocol == question.protocol]:
            write_table(question, measured, len(pairs), args)
        else:
            print(f"nothing is measured of {question.protocol}", file=sys.stderr)
    if made := picture(found, their_outcomes(present)):
        name = f"time-to-truth{suffix(present)}{in_low(args.precision)}{with_many(args.timed)}"
        (RESULTS / f"{name}.svg").write_bytes(image_bytes(made, "svg"))


def suffix(pairs: Sequence[tuple[str, str]]) -> str:
    """The data set in the name of a result about one only."""
    data = {model.partition("-")[0] for model, _ in pairs}
    return f"-{data.pop()}" if len(data) == 1 else ""


def in_low(precision: str) -> str:
    """The precision in the name of a result, if it is a low one."""
    return "" if precision == "float32" else f"-{precision}"


def with_many(timed: int) -> str:
    """The number of timed images in the name of a result, if there are many."""
    return f"-{timed}-timed" if timed > TIMED else ""


@dataclass(frozen=True)
class Question:
    """What is measured for each pair of a model and a threat."""

    protocol: str
    seeds: int
    timed: int
    pairs: int
    precision: str = "float32"

    def attacks(self, model: str, threat: str) -> list[str]:
        """The protocol's attacks under a threat, with every number."""
        (choice,) = protocols.load(self.protocol, data_of(model)).with_threats([threat]).threats
        return [described(attack) for attack in choice.attacks]

    def row_name(self, model: str, threat: str) -> str:
        """The key of the row that answers it."""
        return row_name(self.protocol, model, threat, self.precision, self.timed)

    def is_answered_by(self, row: Measured) -> bool:
        """Whether a row was measured with these numbers, or more seeds, and with the protocol's present attacks."""
        numbers = (row.timed, row.pairs, row.precision, row.attacks)
        asked = (self.timed, self.pairs, self.precision, self.attacks(row.model, row.threat))
        return numbers == asked and len(row.outcomes) >= self.seeds


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
        words = [sys.executable, "-m", "robench", "merge", str(run), "--slim", "--compress", "--out", str(slim)]
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
def warm_up(reference: str, norm: str) -> None:
    """Runs a reference on a few images, so that its imports and half a minute of numba's compiling are not timed."""
    short = "autoattack-reference(steps=20, queries=20)"
    few = [short] if reference == AUTOATTACK else THEIR_ATTACKS[FOOLBOX][norm][-1:]
    threat = next(text for text in RADII["digits"] if norm_of(text) == norm)
    evaluated("digits-nat", threat, attacks=few, examples=3)


def their_outcomes(pairs: Sequence[tuple[str, str]]) -> dict[str, dict[tuple[str, str], str]]:
    """The outcomes of each reference on each pair that it has a run of."""
    return {
        reference: {pair: loaded(*pair, reference).union.outcomes for pair in pairs if has_reference(*pair, reference)}
        for reference in THEIR_ATTACKS
    }


def known_outcomes(model: str, threat: str, but: str = "") -> list[str]:
    """The outcomes of everything on file about a pair: of all protocols but one with every seed, and of references."""
    rows = [row for row in read(ROWS).values() if row.pair == (model, threat) and row.protocol != but]
    ours = [text for row in rows for text in row.outcomes]
    references = [name for name in THEIR_ATTACKS if has_reference(model, threat, name)]
    return ours + [loaded(model, threat, name).union.outcomes for name in references]


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
    precision: str = "float32",
) -> robench.Summary:
    """A new evaluation by the planned attacks alone, without a check for gradient masking."""
    return robench.evaluate(
        model,
        threats=[threat],
        protocol=protocol,
        attacks=attacks,
        examples=examples,
        seed=seed,
        run=run,
        precision=precision,
        masking="off",
    )


def measured_rows(questions: Sequence[Question], model: str, threat: str, args: argparse.Namespace) -> list[Measured]:
    """The rows of this pair: those on file that answer a question, else new ones, which are kept there."""
    names = {question: question.row_name(model, threat) for question in questions}
    on_file = {} if args.again else read(ROWS)
    rows = {q: on_file[name] for q, name in names.items() if name in on_file and q.is_answered_by(on_file[name])}
    missing = [question for question in questions if question not in rows]
    if missing and not args.report:
        new = measure(missing, model, threat)
        for row in new:
            print(
                f"{row.protocol} {row.pair}: {row.standing} stand; seconds {row.seconds}", file=sys.stderr, flush=True
            )
        rows |= dict(zip(missing, new, strict=True))
        keep(ROWS, read(ROWS) | {rows[question].name: rows[question] for question in missing})
    return [replace(rows[q], outcomes=rows[q].outcomes[: q.seeds]) for q in questions if q in rows]


def measure(questions: Sequence[Question], model: str, threat: str) -> list[Measured]:
    """What each protocol leaves with each seed, and what all and the references take for the first images."""
    ours = {
        question: [
            evaluated(model, threat, protocol=question.protocol, seed=seed, precision=question.precision)
            for seed in range(question.seeds)
        ]
        for question in questions
    }
    for reference in THEIR_ATTACKS:
        if has_reference(model, threat, reference):
            data = {
                loaded(model, threat, reference).data.sha256,
                *(s.data.sha256 for some in ours.values() for s in some),
            }
            assert len(data) == 1, f"the protocols and {reference} are about the same images"
    found, taken = timed(questions, model, threat)
    return [
        Measured(
            protocol=question.protocol,
            model=model,
            threat=threat,
            attacks=question.attacks(model, threat),
            outcomes=[summary.union.outcomes for summary in ours[question]],
            timed=question.timed,
            pairs=question.pairs,
            seconds={name: median(taken[name]) for name in (question.protocol, *THEIR_ATTACKS) if name in taken},
            gradients={
                name: found[name].cost.backwards for name in (question.protocol, *THEIR_ATTACKS) if name in found
            },
            machine=machine(CPU),
            commit=code(),
            precision=question.precision,
        )
        for question in questions
    ]


@functools.cache
def code() -> str:
    """The commit at the first measurement: later the file of rows itself is changed."""
    return commit(CPU)


def timed(
    questions: Sequence[Question], model: str, threat: str
) -> tuple[dict[str, robench.Summary], dict[str, list[float]]]:
    """A summary and all CPU seconds on the first images, of each protocol and reference, in turn."""
    examples, pairs = questions[0].timed, questions[0].pairs
    found: dict[str, robench.Summary] = {}
    taken: dict[str, list[float]] = {}
    if not examples:
        return found, taken
    given: dict[str, dict[str, Any]] = {
        q.protocol: {"protocol": q.protocol, "precision": q.precision} for q in questions
    }
    for reference, attacks in THEIR_ATTACKS.items():
        if has_reference(model, threat, reference) and (reference != FOOLBOX or has_numba()):
            given[reference] = {"attacks": attacks[norm_of(threat)]}
            warm_up(reference, norm_of(threat))
    for _ in range(pairs):
        for name, options in given.items():

            def work(name: str = name, options: dict[str, Any] = options) -> None:
                found[name] = evaluated(model, threat, examples=examples, **options)

            taken.setdefault(name, []).append(seconds(work, CPU))
    return found, taken


def write_table(question: Question, measured: Sequence[Measured], wanted: int, args: argparse.Namespace) -> None:
    """The table of one protocol."""
    notes = [
        f"The first {EXAMPLES} test images; {question.seeds} seeds of {question.protocol} in {question.precision}, one"
        f" of the references in float32. Seconds and gradients are of the first {question.timed} images, medians of"
        f" {question.pairs}, in turn. A sum has the columns that every row has. Everything else: all other protocols"
        " with all seeds and precisions on file, and the references. Command:"
        f" {command(args, question.protocol)}"
    ]
    if missing := wanted - len(measured):
        notes.append(f"{missing} of {wanted} pairs have no reference, or are not measured yet.")
    machines = sorted({f"{row.machine}; commit {row.commit}" for row in measured})
    name = Path(question.protocol).stem + in_low(question.precision) + with_many(question.timed)
    rows = table(
        measured,
        their_outcomes([row.pair for row in measured]),
        {row.pair: known_outcomes(*row.pair, but=question.protocol) for row in measured},
    )
    of_data = suffix([row.pair for row in measured])
    write_results(f"time-to-truth-{name}{of_data}", f"{name}, AutoAttack and Foolbox", rows, notes, CPU, machines)


def command(args: argparse.Namespace, protocol: str) -> str:
    """The command that makes one table."""
    models = "".join(f" --model {model}" for model in args.model or ())
    numbers = f" --seeds {args.seeds} --timed {args.timed} --pairs {args.pairs}"
    numbers += "" if args.precision == "float32" else f" --precision {args.precision}"
    return f"python benchmarks/time_to_truth.py --protocol {protocol}{models}{numbers}"


if __name__ == "__main__":
    main()
