"""How often each verdict of `--masking on` is right, on models that were written without looking at the check.

    python benchmarks/masking_verdicts.py [--part chosen|held-out|fresh|all] [--form module|compiled] [--examples N]
        [--only NAME ...] [--level on|deep] [--own-limit] [--keep DIR] [--saved]

Each model of `independent_models.py`, as a module and, where TorchScript can compile it, as a compiled file. `chosen`
are those on which thresholds were chosen; `held-out` a third by a hash of the name; `fresh` all of `fresh_models.py`,
written after the rules. `truth` is the accuracy of the network inside under the same protocol; where a mask changes
predictions, that of a twin with the same answers and a useful gradient, which bounds the truth from above. The
check has no limit of time, as results must not depend on the machine's load; with `--own-limit` it has its own. With
`--keep`, the same command resumes.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from fresh_models import FRESH
from independent_models import SUBJECTS, NoGradient, Subject
from measuring import write_results
from resumable import Row, SavedRows, add_option
from tabulate import tabulate
from torch import nn

import robench
from robench.evaluation import prepared
from robench.evaluation.model_source import source_of
from robench.evaluation.request import EvalRequest, choose
from robench.masking import schedule, transfer
from robench.results.summary import Summary

NEAR = 3.0  # points between the number and the truth
FORMS = ("module", "compiled")
SHAPES = {"digits": (1, 28, 28), "mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
VERDICTS = ("masked", "suspect", "none-found", "untested")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("chosen", "held-out", "fresh", "all"), default="chosen")
    parser.add_argument("--form", choices=FORMS, default=None)
    parser.add_argument("--examples", type=int, default=60)
    parser.add_argument("--level", choices=("on", "deep"), default="on")
    parser.add_argument("--own-limit", action="store_true", help="the check ends when users' checks would")
    parser.add_argument("--only", nargs="*", default=[], help="run only these models, and write no page")
    parser.add_argument("--bases", type=Path, default=Path(tempfile.gettempdir()) / "robench-independent-bases")
    parser.add_argument("--saved", action="store_true", help="only what --keep has already")
    add_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    prepared.SLOTS["cpu"] = min(64, args.examples)
    bundled = transfer.local_models
    if not args.own_limit:
        schedule.MIN = schedule.MORE_MIN = float("inf")
    saved, rows = SavedRows(args.keep), []
    limits: dict[str, bool] = {}  # whether the check had its limit of time, by model and form
    for subject in FRESH if args.part == "fresh" else SUBJECTS:
        if args.only and subject.name not in args.only:
            continue
        if not args.only and args.part in ("chosen", "held-out") and subject.held_out != (args.part == "held-out"):
            continue
        # No mask may be undone by the network inside it.
        transfer.local_models = lambda data, s=subject: (name for name in bundled(data) if name not in s.inside)
        for form in subject.forms:
            if args.form not in (None, form):
                continue
            question: Row = {"examples": args.examples, "level": args.level, "form": form}
            part = f"{subject.name}-{form}"
            limited = question | {"limit": "own"}
            if args.own_limit or (args.saved and saved.known(part, question) is None):
                question = limited
            if args.saved and saved.known(part, question) is None:
                continue
            limits[f"{subject.name} ({form})"] = question == limited
            made = saved.rows(part, question, lambda s=subject, f=form: list(_rows_of(s, f, args)))
            made = [row | _judged(_run_file(args, row)) for row in made]
            rows += made
            for row in made:
                print(" | ".join(str(value) for value in row.values()), flush=True)
    notes = [*_confusion(rows), "", *_distances(rows), "", *_explained(args, limits), *saved.note()]
    if args.only or args.form or args.part == "all":  # no part replaces the results of the whole
        print(tabulate(rows, headers="keys", tablefmt="pipe"), *notes, sep="\n")
        return
    title = f"Gradient masking: verdicts on independent models, {args.part}"
    for row in rows:
        del row["sentences"]  # they fill a page each
    write_results(f"masking-verdicts-{args.part}-{args.level}", title, rows, notes, torch.device("cpu"))


def _rows_of(subject: Subject, form: str, args: argparse.Namespace) -> Iterator[Row]:
    for name in subject.bases:
        for threat in subject.threats[name]:
            truth = "" if subject.family == "honest" else _truth(subject, name, threat, args)
            with tempfile.TemporaryDirectory() as folder:
                model: nn.Module | Path = subject.build(subject.base(name, args.bases)).eval()
                if form == "compiled":
                    model = _compiled(model, Path(folder) / "model.pt", subject.data)
                found: dict[str, tuple[Summary, float]] = {}
                run = _run_file(args, {"model": subject.name, "form": form, "threat": threat})
                run.parent.mkdir(parents=True, exist_ok=True)
                run.unlink(missing_ok=True)
                for level in ("off", args.level):
                    start = time.process_time()
                    summary = _evaluated(model, subject.data, threat, args.examples, level, run)
                    found[level] = summary, time.process_time() - start
            yield {
                "model": subject.name,
                "family": subject.family,
                "base": name,
                "form": form,
                "threat": threat,
                "verdict": "",
                "off": _accuracy(found["off"][0]),
                args.level: _accuracy(found[args.level][0]),
                "truth": truth,
                "seconds, off": round(found["off"][1], 1),
                f"seconds, {args.level}": round(found[args.level][1], 1),
                "sentences": "",
            }


def _run_file(args: argparse.Namespace, row: Row) -> Path:
    name = f"{row['model']}-{row['form']}-{row['threat']}-{args.level}".replace(" ", "-").replace(",", "")
    return (args.keep or args.bases) / "runs" / f"{name.replace(':', '-')}.robench"


def _judged(run: Path) -> Row:
    """The verdict on the records of a run, by the rule of today."""
    finding = robench.load_run(run).threats[0].masking
    return {"verdict": finding.verdict, "sentences": "; ".join(finding.evidence)}


_TRUTHS: dict[tuple[str, str, str], str] = {}


def _truth(subject: Subject, name: str, threat: str, args: argparse.Namespace) -> str:
    """The accuracy of the network inside, or of the twin, under the same protocol."""
    key = (subject.name if subject.twin else "", name, threat)
    if key not in _TRUTHS:
        net = subject.base(name, args.bases)
        twin = subject.twin(net).eval() if subject.twin else net
        _TRUTHS[key] = _accuracy(_evaluated(twin, subject.data, threat, args.examples, "off"))
    return _TRUTHS[key]


def _accuracy(summary: Summary) -> str:
    return f"{100 * summary.threats[0].accuracy:.1f}"


def _compiled(module: nn.Module, path: Path, data: str) -> Path:
    """The module as a TorchScript file: traced or, where tracing would drop what it does, scripted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = torch.rand(2, *SHAPES[data], generator=torch.Generator().manual_seed(0))
        if isinstance(module, NoGradient):
            traced = torch.jit.trace(module.net, images, check_trace=False)
            program = torch.jit.script(NoGradient(traced))
        else:
            program = torch.jit.trace(module, images, check_trace=False)
        program.save(str(path))
    return path


def _evaluated(
    model: nn.Module | Path, data: str, threat: str, examples: int, level: str, run: Path | None = None
) -> Summary:
    request = EvalRequest(data, "quick", (threat,), examples=str(examples), seed=0, masking=level)
    ready = prepared.prepare(request, source_of(model), choose(request))
    return ready.answer(run).summary


def _confusion(rows: list[Row]) -> Iterator[str]:
    yield f"| family, form | {' | '.join(VERDICTS)} |"
    yield "|:--|--:|--:|--:|--:|"
    groups = [("honest", form) for form in FORMS] + [("masks", form) for form in FORMS]
    groups += [(family, form) for family in dict.fromkeys(str(r["family"]) for r in rows) for form in FORMS]
    for family, form in dict.fromkeys(groups):
        among = [r for r in rows if r["form"] == form and _belongs(str(r["family"]), family)]
        if among:
            counts = [sum(r["verdict"] == verdict for r in among) for verdict in VERDICTS]
            yield f"| {family}, {form} | {' | '.join(map(str, counts))} |"


def _belongs(family: str, group: str) -> bool:
    return family == group or (group == "masks" and family != "honest")


def _distances(rows: list[Row]) -> Iterator[str]:
    for form in FORMS:
        known = [r for r in rows if r["form"] == form and r["truth"]]
        levels = [key for key in (known[0] if known else {}) if key in ("on", "deep")]
        for level in ("off", *levels):
            near = sum(float(str(r[level])) <= float(str(r["truth"])) + NEAR for r in known)
            if known:
                yield f"- {form}, `{level}`: {near} of {len(known)} masks end within {NEAR:g} points of the truth."


def _explained(args: argparse.Namespace, limits: dict[str, bool]) -> list[str]:
    own = [name for name, limited in limits.items() if limited]
    if own and len(own) == len(limits):
        limit = "The check had the limit of time that users' checks have"
    else:
        limit = "The check had no limit of time" + (f", but its own for {', '.join(own)}" if own else "")
    options = (" --own-limit" if args.own_limit else "") + (" --saved" if args.saved else "")
    return [
        "Accuracy in percent of the examples, under the protocol quick with that threat. Truth: the network inside, or"
        " a twin with the same answers and a useful gradient. Seconds are CPU time of one thread; those of the check"
        f" come on top of those of the attacks. {limit}.",
        f"Command: python benchmarks/masking_verdicts.py --part {args.part} --level {args.level}"
        f" --examples {args.examples}{options}",
    ]


if __name__ == "__main__":
    main()
