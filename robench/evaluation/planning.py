"""The plan of an evaluation, and whether a run file that holds one can be continued."""

from pathlib import Path

import msgspec
import torch

from ..errors import UserError
from ..evidence.attack_key import AttackKey
from ..evidence.records import MAX_ITEMS, ModelRecord, Plan, PlannedAttack, PlannedThreat
from ..problem.classifier import Classifier
from ..problem.split import Source, Split
from ..protocols import AttackChoice, Protocol, ThreatChoice
from ..protocols.cost import planned_items
from ..results.merging import joint_shards
from ..search.attack import ForeignAttack
from ..search.engine.precision import checked
from .recorded import identity_of

EOT = 20  # passes that a search averages over, as AutoAttack's version for random models does


def make_plan(
    classifier: Classifier,
    split: Split,
    protocol: Protocol,
    *,
    seed: int,
    every_attack: bool,
    slots: int,
    curve: bool = False,
    precision: str | None = None,
) -> Plan:
    """The question, with the conditions under which its verdicts repeat exactly.

    Hashes the weights and makes a forward pass. Raises UserError where the precision is unknown, or the device lacks
    it, and for a threat that has too many parameters for images of this size.
    """
    for choice in protocol.threats:
        choice.threat.refuse_unfit(split.shape)
    return Plan(
        model=record_of(classifier),
        data=split.name,
        data_sha256=split.sha256,
        examples=split.numbers,
        protocol=protocol.name,
        seed=seed,
        every_attack=every_attack,
        threats=tuple(as_planned(choice, classifier.classes) for choice in protocol.threats),
        device=str(classifier.device),
        threads=torch.get_num_threads(),
        precision=checked(precision, classifier.device),
        slots=slots,
        curve=curve,
    )


def record_of(classifier: Classifier) -> ModelRecord:
    """The identity of a classifier as a run file keeps it. Hashes the weights and makes a forward pass."""
    identity = classifier.identity()
    return ModelRecord(
        name=classifier.name,
        weights_sha256=identity.weights_sha256,
        architecture=identity.architecture,
        normalisation=identity.normalisation,
        fingerprint=identity.fingerprint,
    )


def as_planned(choice: ThreatChoice, classes: int, eot: int = 1) -> PlannedThreat:
    """One threat of a protocol with its attacks, as a plan holds it."""
    attacks = [PlannedAttack(a.label, spec_of(a, eot), _items(a, classes), a.near, a.sample) for a in choice.attacks]
    return PlannedThreat(str(choice.threat), tuple(attacks))


def _items(choice: AttackChoice, classes: int) -> int:
    """The searches of an example. Raises UserError for more than a run file counts."""
    items = planned_items(choice, classes)
    if items > MAX_ITEMS:
        raise UserError(
            f"{choice.label} would search each example {items:,} times, and a run file counts up to {MAX_ITEMS:,}; name"
            " fewer restarts"
        )
    return items


def spec_of(choice: AttackChoice, eot: int) -> str:
    """The attack with every number, the number of passes it averages over included."""
    alone = eot == 1 or isinstance(choice.attack, ForeignAttack)
    return str(AttackKey(choice.attack.spec, passes=None if alone else eot))


def resumed(plan: Plan, before: Plan, path: str) -> Plan:
    """The plan under the conditions of the run that it continues: its precision, and slots that fit the memory.

    Raises UserError where the file at `path` holds a run of another model, data set or seed, or one without a curve
    where a curve is requested.
    """
    refuse_other_noise(before, plan.device, path)
    if not identity_of(before.model).same_as(identity_of(plan.model)):
        raise UserError(
            f"{path} holds a run of another model ({before.model.name}, weights {before.model.weights_sha256[:8]});"
            " name another file with --run"
        )
    if (before.data, before.seed) != (plan.data, plan.seed):
        raise UserError(
            f"{path} holds a run on {before.data} with seed {before.seed}, not on {plan.data} with seed {plan.seed};"
            " name another file with --run"
        )
    if plan.curve and not before.curve:
        raise UserError(
            f"the searches of {path} ended at their first find, so accuracy at smaller radii would be too high;"
            " name another file with --run for --curve"
        )
    if plan.shards and plan.examples == before.examples:
        shards = joint_shards([*before.shards, *plan.shards], len(plan.examples))
        plan = msgspec.structs.replace(plan, shards=shards)
    if before.device != plan.device:
        return plan
    precision = before.precision if plan.precision == "auto" else plan.precision
    return msgspec.structs.replace(plan, precision=precision, slots=min(plan.slots, before.slots))


def refuse_other_noise(before: Plan, device: str, path: str) -> None:
    """Raises UserError where the noise of a stochastic model cannot be that of the run."""
    kind, recorded = device.partition(":")[0], before.device.partition(":")[0]
    if before.passes > 1 and kind != recorded:
        raise UserError(
            f"{path} is about a model that answers at random, on {recorded}, and its noise is another on {kind};"
            f" go on with --device {recorded}"
        )


def averaging(protocol: Protocol) -> int:
    """The number of passes that searches on a stochastic model average over."""
    return EOT if protocol.eot is None else protocol.eot


def planned_examples(run: str | Path, plan: Plan, whole: Source) -> Split:
    """The examples that a run is about. Raises UserError when they are missing, or are other images."""
    rows = {number: row for row, number in enumerate(whole.numbers)}
    missing = [number for number in plan.examples if number not in rows]
    if missing:
        raise UserError(f"{whole.name} has no example {missing[0]}, which {run} is about; name its data with --data")
    split = whole.take([rows[number] for number in plan.examples])
    if split.sha256 != plan.data_sha256:
        raise UserError(f"{whole.name} holds other images than {run} is about; name its data with --data")
    return split
