"""What a reader of a run should know besides its numbers: shown when it is found, and kept with the run."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..masking import diagnostics
from ..problem import cautions
from ..problem.classifier import Classifier
from ..problem.split import Split
from ..protocols import Protocol
from ..results.summarising import NOTE
from ..search.engine.trial import gradient_caution, objection_to_smaller_batches
from .progress import Progress, Silence

SHOWN = (
    *(
        "model",
        "inferred",
        "returned",
        "data",
        "training",
        "sample",
        "labels",
        "outputs",
        "logarithms",
        "gradients",
        "contradicted",
        "classes",
        "accuracy",
        "threats",
        "failures",
    ),
    "batch",
)
DOUBTFUL = ("outputs", "gradients", "contradicted")  # with one of these, gradient attacks may fail
OF_MODEL = ("outputs", "logarithms", "gradients", "contradicted", "batch")  # found once per run file
DROPPED = ("layout", "graph")  # optimisations that were left out: no number depends on them
OUTPUTS = 64  # clean images whose outputs are checked to be logits
TRIED = 8  # clean images on which gradients and batches are checked


@dataclass
class Notes:
    """Notes by their kind, one of SHOWN or DROPPED."""

    progress: Progress = field(default_factory=Silence)
    texts: dict[str, str] = field(default_factory=dict)
    _noted: set[tuple[str, str]] = field(default_factory=set)

    def add(self, kind: str, text: str) -> None:
        """Shows a note and keeps it; an empty text is no note."""
        assert kind in (*SHOWN, *DROPPED), f"{kind} is no kind of note"
        if text and (kind, text) not in self._noted:
            self.progress.noted(text)
        if text:
            self.texts[kind] = text
            self._noted.add((kind, text))

    def adopt(self, recorded: Mapping[str, str]) -> bool:
        """Shows what is known from the start, and takes what a run file holds about the model.

        Returns whether the file holds it, so that it need not be found again.
        """
        found = {kind: recorded.get(f"{NOTE}{kind}", "") for kind in OF_MODEL}
        if found["outputs"] == cautions.LOGARITHMS:  # where older files have it
            found["outputs"], found["logarithms"] = "", found["outputs"]
        for kind, text in [*self.texts.items(), *found.items()]:
            self.add(kind, text)
        return f"{NOTE}contradicted" in recorded  # the last of them that was added to files

    def of_model(self) -> dict[str, str]:
        """The notes about the model."""
        return {kind: self.texts[kind] for kind in OF_MODEL if kind in self.texts}

    @property
    def doubt_gradients(self) -> bool:
        """Whether a note says that attacks that read gradients may fail on this model."""
        return any(kind in self.texts for kind in DOUBTFUL)

    def environment(self) -> dict[str, str]:
        """The notes as the run file keeps them; a note that no longer holds is emptied."""
        shown = {f"{NOTE}{kind}": self.texts.get(kind, "") for kind in SHOWN}
        return shown | {f"without {kind}": self.texts.get(kind, "") for kind in DROPPED}


def note_model(notes: Notes, classifier: Classifier, split: Split, *, at_random: bool) -> None:
    """Notes what is odd about the model's gradients, and about its answers in smaller batches.

    Where it answers at random, answers cannot be compared, and only absent gradients are noted.
    """
    few = split.take(range(min(TRIED, len(split))))
    notes.add("gradients", gradient_caution(classifier, few.x, at_random=at_random))
    if at_random:
        return
    if "gradients" not in notes.texts:
        notes.add("contradicted", diagnostics.caution(classifier, few))
    if why := objection_to_smaller_batches(classifier, few.x):
        notes.add(
            "batch",
            f"answers depend on the rest of the batch: leaving idle rows out {why}, so whole batches are queried, and"
            " the verdict on an image may depend on the others (is a layer in training mode?)",
        )


def note_examples(notes: Notes, split: Split, protocol: Protocol, classes: int, correct: int) -> None:
    """Notes what limits the meaning of these examples and threats; `correct` of the clean images are."""
    notes.add("classes", cautions.of_classes(split.y, classes))
    notes.add("accuracy", cautions.of_accuracy(correct, split.y, classes))
    threats = [choice.threat for choice in protocol.threats]
    boundless = (cautions.of_threat(threat, split.shape) for threat in threats)
    notes.add("threats", "; ".join(filter(None, (*boundless, cautions.of_parts(threats)))))
