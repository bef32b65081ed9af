"""`assert_robust` for a user's own tests: it fails with a table when a model is less robust than required."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from .. import api
from ..api import Data
from ..errors import UserError, ended_programs_as_user_errors, unknown
from ..evaluation.model_source import Model, source_of
from ..evaluation.prepared import EvalResult, StopCriterion
from ..evaluation.regression import Baseline, compare, question, read_baseline, unchanged
from ..problem.process import plain_process
from ..problem.split import Split
from ..results.gate import GateVerdict, letters_of, read_allowances
from ..results.outcomes import Outcome
from ..results.summary import Summary
from ..results.tables import render
from ..search.attack import Attack, AttackGiven
from ..search.own_attack import Consent

__all__ = ["assert_robust"]


@ended_programs_as_user_errors()
def assert_robust(
    model: Model,
    data: Data = None,
    *,
    baseline: str | Path | None = None,
    max_drop: str | Sequence[str] = (),
    at_least: Mapping[str, float] | None = None,
    threats: Sequence[str] = (),
    attacks: AttackGiven | Sequence[AttackGiven] = (),
    protocol: str | Path | None = None,
    examples: int | str | None = None,
    run: str | Path | None = None,
    device: str = "cpu",
) -> Summary:
    """Raises AssertionError, with a table, when a model is not as robust as required; else returns its summary.

    `model` is a module that takes images in [0, 1], a checkpoint or the name of a bundled model; `data` is what
    `robench.evaluate` takes.

    With `baseline`, a file of `robench evaluate --json` or a run file, the model must not have become worse. It is
    evaluated as the baseline was. Every row may drop by 1pp, or as `max_drop` allows: "2pp", or
    ["union=1pp", "clean=0.5pp"]. An undecided verdict fails too, and names how many more examples it would take. If
    the baseline used attacks of your own, name them again: attacks=["file.py:Class"].

    With `at_least`, shares between 0 and 1 by row (`clean`, a threat, `union`), at least that share must stand after
    every planned attack; open examples do not count as standing. The other arguments are those of `robench.evaluate`.

    With `run`, the evidence is kept there, and what is known is not searched for again. Raises UserError, a ValueError,
    with one sentence, when something cannot be measured.

        assert_robust(net, "mnist", threats=["linf:0.1"], examples=100, at_least={"linf:0.1": 0.8})
        assert_robust("model.safetensors", baseline="baseline.json", max_drop="union=1pp")
    """
    if baseline is None and not at_least:
        raise UserError("state how robust the model must be: baseline=FILE, or at_least={'union': 0.5}")
    if baseline is None and max_drop:
        raise UserError("max_drop needs a baseline; name one with baseline=FILE")
    _check_shares(at_least or {})
    if not isinstance(max_drop, (str, list, tuple)) or not all(isinstance(drop, str) for drop in max_drop):
        raise UserError(f"max_drop={max_drop!r} is not text; write percentage points like '1pp' or ['union=1pp']")
    if baseline is not None and (threats or protocol or examples):
        raise UserError("the baseline determines the question; leave out threats, protocol and examples")
    if baseline is not None:
        known = read_baseline(Path(baseline))
        drops = [max_drop] if isinstance(max_drop, str) else max_drop
        consent = Consent.of([attacks] if isinstance(attacks, str | type | Attack) else attacks)
        summary = _not_worse(model, known, data, drops, run, device, consent, whole=bool(at_least))
    else:
        summary = api.evaluate(
            model,
            data,
            protocol,
            threats=threats,
            attacks=attacks,
            examples=examples,
            run=run,
            device=device,
        )
    _require(summary, at_least or {})
    return summary


def _check_shares(at_least: Mapping[str, float]) -> None:
    if not isinstance(at_least, Mapping):
        raise UserError(f"at_least={at_least!r} names no row; write it like at_least={{'union': 0.5}}")
    for name, wanted in at_least.items():
        if not isinstance(wanted, (int, float)) or not 0 <= wanted <= 1:
            raise UserError(f"at_least={{{name!r}: {wanted!r}}} is not a share; it goes from 0 to 1")


@plain_process()
def _not_worse(
    model: Model,
    baseline: Baseline,
    data: Data,
    max_drop: Sequence[str],
    run: str | Path | None,
    device: str,
    consent: Consent,
    *,
    whole: bool,
) -> Summary:
    """The summary of a model that is no worse; with `whole`, the search is not stopped when that is certain."""
    allowances = read_allowances(max_drop, baseline.rows)
    if data is not None and not isinstance(data, str | Path):
        raise UserError(f"with a baseline, data is a name, a folder or a file, not {type(data).__name__}; name it")
    compared = question(baseline, None if data is None else str(data), consent=consent)
    prepared = compared.prepare(source_of(model, device))

    def evaluate(split: Split, stop_when: StopCriterion | None) -> EvalResult:
        return prepared.answer(run, None if whole else stop_when)

    if baseline.is_of(prepared.plan.model):
        comment = unchanged(baseline, allowances)
    else:
        comment, _ = compare(compared, allowances, evaluate)
    if comment.judgement.verdict is not GateVerdict.NONE:
        raise AssertionError(comment.markdown())
    return comment.now


def _require(summary: Summary, at_least: Mapping[str, float]) -> None:
    letters = letters_of(summary)
    letters.setdefault("union", summary.union.outcomes)
    short = []
    for name, wanted in at_least.items():
        if name not in letters:
            raise unknown("row of the summary", name, letters)
        share = letters[name].count(Outcome.STANDING) / len(letters[name])
        if share < wanted:
            short.append(f"{name}: {100 * share:.1f} % stand, at least {100 * wanted:g} % are required")
    if short:
        raise AssertionError("\n".join([*short, "", render([summary], intervals=True)]))
