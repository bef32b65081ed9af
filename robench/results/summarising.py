"""The summary of a run's evidence."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import msgspec

from ..evidence.records import Effort, Evidence, ModelRecord, Plan
from .attack_rows import AttackEntry
from .masking import verdict as masking
from .masking.verdict import MaskingFinding
from .outcomes import Outcome
from .parts import EvidenceSource, Whole, parts_of
from .stats import shares
from .summary import (
    SCHEMA,
    AverageEntry,
    CleanEntry,
    CostEntry,
    CurveEntry,
    DataEntry,
    MaskingEntry,
    ModelEntry,
    Summary,
    ThreatEntry,
    ThreatMaskingEntry,
    UnionEntry,
)
from .tally import CleanTally, Tally, ThreatTally, as_text

NOTE = "note "  # begins the keys of the environment under which a run keeps its notes
FINGERPRINT = 80  # logits, about: they reveal a changed network, and fit in a line


def summarise(plan: Plan, evidence: Evidence | EvidenceSource, version: str) -> Summary:
    """The summary of the evidence for the plan. Neither order nor repetition of records makes a difference.

    A source, such as a run file, is read in parts, so that the memory does not depend on the number of records. Only
    where gradient masking was checked, it is read once as a whole.
    """
    assert plan.examples, "a plan names at least one example"
    source = Whole(evidence) if isinstance(evidence, Evidence) else evidence
    shared, tally = source.shared(), Tally(plan)
    for part in parts_of(plan, source):
        tally.add(part)
    checked = any(shared.masking_state(t.threat).reached for t in plan.threats)
    findings = masking.findings(plan, source.evidence() if checked else shared)
    threats = tuple(_threat_entry(of, tally, shared.efforts, findings[of.threat]) for of in tally.threats)
    letters = [entry.outcomes for entry in threats]
    shown = {key for key in shared.environment if key.startswith(NOTE)}
    if all(entry.masking.verdict != "untested" for entry in threats):
        shown -= {key for key in shown if "--masking on" in shared.environment[key]}  # that was done
    return Summary(
        schema=SCHEMA,
        robench=version,
        model=model_entry(plan.model),
        data=DataEntry(plan.data, len(plan.examples), plan.data_sha256, _slices(plan.examples)),
        protocol=plan.protocol,
        seed=plan.seed,
        clean=_clean_entry(tally.clean, len(plan.examples)),
        threats=threats,
        union=_union_entry(as_text(tally.union), tally.failed_open),
        average=AverageEntry(*shares.mean(letters)) if letters else AverageEntry(None, None),
        masking=MaskingEntry(*masking.joint(findings)),
        cost=_cost(a for t in threats for a in t.attacks),
        environment={key: text for key, text in shared.environment.items() if text and not key.startswith(NOTE)},
        notes=(
            *(text for key, text in shared.environment.items() if key in shown and text),
            *_signs_of_masking(tally, threats),
        ),
        every_attack=plan.every_attack,
        ties=tally.clean.ties,
        nan=tally.clean.nan,
    )


def _signs_of_masking(tally: Tally, threats: Iterable[ThreatEntry]) -> Iterator[str]:
    """A note on each threat whose own attacks show a sign of masking, where masking was not checked."""
    for of, entry in zip(tally.threats, threats, strict=True):
        unchecked = entry.masking.verdict == "untested" and not entry.masking.evidence
        if unchecked and (found := of.sign_of_masking()):
            yield f"{entry.threat}: {found}; add --masking on"


def model_entry(model: ModelRecord) -> ModelEntry:
    """The classifier as the summary file names it."""
    logits = model.fingerprint[:: max(1, len(model.fingerprint) // FINGERPRINT)]
    text = " ".join(f"{value:.4g}" for value in logits)
    return ModelEntry(model.name, model.weights_sha256, model.architecture, model.normalisation, text)


def _slices(numbers: Sequence[int]) -> str:
    """`0 1 2 7 8` as `0:3 7:9`, in their order."""
    gaps = [(before, after) for before, after in pairwise(numbers) if after != before + 1]
    starts = [numbers[0], *(after for _, after in gaps)]
    lasts = [*(before for before, _ in gaps), numbers[-1]]
    return " ".join(f"{start}:{last + 1}" for start, last in zip(starts, lasts, strict=True))


def _clean_entry(tally: CleanTally, n: int) -> CleanEntry:
    interval = shares.interval(tally.correct, tally.open, n)
    error = tally.error[1] if tally.error is not None else ""
    return CleanEntry((tally.correct + tally.open) / n, interval, tally.correct, tally.open, error)


def _threat_entry(of: ThreatTally, tally: Tally, efforts: Sequence[Effort], found: MaskingFinding) -> ThreatEntry:
    letters = as_text(of.letters)
    whole = _union_entry(letters, of.failed_open)
    return ThreatEntry(
        threat=of.threat,
        accuracy=whole.accuracy,
        ci95=whole.ci95,
        wrong=whole.wrong,
        broken=whole.broken,
        standing=whole.standing,
        open=whole.open,
        outcomes=letters,
        rejected=of.rejected(),
        attacks=of.attacks(efforts, known=not tally.clean.open),
        curve=_curve(of, len(letters)) if of.plan.curve else CurveEntry(),
        masking=ThreatMaskingEntry(found.verdict, found.evidence, found.next, found.indicators or msgspec.UNSET),
        nan=of.nan,
        rejections=of.rejections(),
        failures=of.failures(),
        elsewhere=of.elsewhere,
        by_claim=of.by_claim,
        ties=of.ties,
        failed=whole.failed,
    )


def _curve(of: ThreatTally, n: int) -> CurveEntry:
    """The share of examples without a find up to each radius: an upper bound, as accuracy is."""
    if of.radius is None:
        return CurveEntry()
    return CurveEntry(tuple(of.radii), tuple((of.correct - int(within)) / n for within in of.within))


def _union_entry(letters: str, failed: int) -> UnionEntry:
    """The counts of these letters; `failed` of the open examples are open because something raised."""
    wrong, broken, standing, still_open = (letters.count(outcome) for outcome in Outcome)
    return UnionEntry(
        accuracy=shares.accuracy(letters),
        ci95=shares.interval(standing, still_open, len(letters)),
        wrong=wrong,
        broken=broken,
        standing=standing,
        open=still_open,
        outcomes=letters,
        failed=failed,
    )


def _cost(attacks: Iterable[AttackEntry]) -> CostEntry:
    rows = list(attacks)
    return CostEntry(sum(a.seconds for a in rows), sum(a.forwards for a in rows), sum(a.backwards for a in rows))
