"""What a protocol costs per example, as `robench list protocols -v` prints it."""

from dataclasses import dataclass

from tabulate import tabulate

from ..errors import UserError
from ..evaluation.environment import pick_device
from ..evaluation.model_source import CheckpointSource
from ..problem import datasets, subsets
from ..problem.checkpoints import locate
from ..problem.classifier import Classifier
from ..problem.datasets import DATASETS
from ..problem.split import Split
from ..protocols import Protocol, ThreatChoice, cost

CLASSES = 10  # where no model or data set determines the number

STANDING = "standing: an example that no attack breaks costs the last total"
FALLING = (
    "falling: an example that an attack breaks costs more than the total above its row, and at most that in its row"
)
NOTES = (
    "A free slot starts the next attack early, which adds queries to an example that then falls to the attack before.\n"
    "An image found under one threat may break its example under another, which then costs less.\n"
    "A gradient is a forward and a backward pass."
)


@dataclass(frozen=True)
class CostedModel:
    """A model whose evaluation is estimated, with its images and its speed on this machine."""

    classifier: Classifier
    split: Split
    data: str
    rate: cost.Rate

    @classmethod
    def named(cls, model: str) -> "CostedModel":
        """The bundled model of this name, or one with a card. Raises UserError without a card."""
        card = locate(model)[1]
        if card is None or not card.data:
            raise UserError(f"{model} has no card that names its data; name a bundled model, such as mnist-adv-linf")
        split = datasets.load(card.data)
        classifier = CheckpointSource(model, device=pick_device("auto")).load(split).classifier
        return cls(classifier, split, card.data.partition(":")[0], cost.measured_rate(classifier))


def costs(protocol: Protocol, costed: CostedModel | None) -> str:
    """The cost of an example that no attack breaks, a table for each threat, and the time for a model of its data."""
    matching = costed if costed is not None and protocol.data in ("", costed.data) else None
    known = DATASETS.get(protocol.data)
    classes = matching.classifier.classes if matching else known.classes if known else CLASSES
    each = cost.of_protocol(protocol, classes)
    lines = [f"An example of {classes} classes that no attack breaks costs {each}."]
    if not matching and not known:
        lines.append(f"{CLASSES} classes are assumed, as the protocol names no data set that robench knows.")
    number = None if protocol.examples is None else subsets.wanted(protocol.examples)
    if matching and (protocol.examples is None or number is not None):
        n = min(len(matching.split), len(matching.split) if number is None else number)
        lines.append(
            f"At the rate of {matching.classifier.name} here ({matching.rate.gradients:,.0f} gradients or"
            f" {matching.rate.forwards:,.0f} forward passes a second) {n:,} of them take up to"
            f" {_duration(n * matching.rate.seconds(each))}; broken examples cost less."
        )
    tables = [_table(choice, classes) for choice in protocol.threats]
    some = any(row.only for choice in protocol.threats for row in cost.rows(choice, classes))
    standing = STANDING + ("; less if it is neither in the sample nor near the boundary" if some else "")
    return "\n\n".join(["\n".join(lines), *tables, f"{standing}\n{FALLING}\n{NOTES}"])


def _table(threat: ThreatChoice, classes: int) -> str:
    """The attacks of a threat in their order, with the queries of each and of all attacks up to it."""
    rows = cost.rows(threat, classes)
    kinds = [("gradients", "gradients"), ("forwards", "forward passes")]
    used = [(kind, name) for kind, name in kinds if getattr(rows[-1].total, kind)]
    headings = [str(threat.threat), "searches", *(heading for _, name in used for heading in (name, "total")), ""]
    body = [
        [
            row.label,
            f"{row.searches:,}",
            *(f"{getattr(part, kind):,}" for kind, _ in used for part in (row.cost, row.total)),
            f"only {row.only}" if row.only else "",
        ]
        for row in rows
    ]
    align = ["left", *["right"] * (len(headings) - 2), "left"]
    text = tabulate(body, headings, tablefmt="plain", disable_numparse=True, colalign=align)
    return "\n".join(line.rstrip() for line in text.splitlines())


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{max(minutes, 1)} min"
