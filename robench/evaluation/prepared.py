"""The one path from a request to an evaluation, for the command line, `robench.evaluate` and the CI gate."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

from ..errors import UserError
from ..evidence.records import Evidence, Plan
from ..evidence.referee import Referee
from ..evidence.store import RunFile
from ..problem import cautions, datasets, outputs
from ..problem.checkpoints.cards import Card, images_held_out, training_images
from ..problem.classifier import Classifier
from ..problem.names import as_file_name
from ..problem.process import plain_process
from ..problem.split import Split
from ..protocols import Protocol
from ..results.summary import Summary
from ..search.engine.trial import use_channels_last
from .environment import environment, model_confinement, model_size
from .model_source import CheckpointSource, ModelSource
from .notes import Notes
from .planning import make_plan
from .progress import Progress, Silence
from .request import EvalRequest, choose
from .rounds import Round
from .runner import Evaluation
from .shards import sharded

SLOTS = {"cpu": 64, "cuda": 512}  # rows of the device batch; the best rate of Madry's CNN on two cores is near 64
SEEDS = 2**32  # seeds go from 0 to one less

StopCriterion = Callable[[Summary], bool]
"""Whether the answer so far suffices, although examples are open."""


@dataclass(frozen=True)
class EvalResult:
    """What an evaluation found: the plan, the evidence, and its summary."""

    plan: Plan
    read: Callable[[], Evidence]  # a file is read when its evidence is needed
    summary: Summary
    finished: bool = True  # False: the user stopped it

    @cached_property
    def evidence(self) -> Evidence:
        """Everything that the run holds."""
        return self.read()

    @classmethod
    def of(cls, evaluation: Evaluation) -> "EvalResult":
        """The result so far, with its evidence: later changes of a run file change nothing."""
        evidence = evaluation.run.evidence()
        return cls(evaluation.plan, lambda: evidence, evaluation.summary())

    @classmethod
    def in_file(cls, evaluation: Evaluation, *, finished: bool) -> "EvalResult":
        """The result so far, whose evidence is read from the run file when it is needed: as it is then."""
        return cls(evaluation.plan, partial(_evidence_in, evaluation.run.path), evaluation.summary(), finished)


def _evidence_in(path: Path) -> Evidence:
    with RunFile.read(path) as run:
        return run.evidence()


@dataclass(frozen=True)
class PreparedEvaluation:
    """Everything that an evaluation needs but the run file. It is run once: the search changes the classifier."""

    request: EvalRequest
    split: Split
    protocol: Protocol
    classifier: Classifier  # to be searched
    referee: Referee  # with weights of its own
    plan: Plan
    metadata: dict[str, str] = field(default_factory=dict)  # how to load model and data again
    card: Card | None = None  # of the model
    source: ModelSource | None = None  # how to load it again
    loading_notes: tuple[str, ...] = ()  # how the model was read
    inferred: str = ""  # the caution about what clean images decided

    @classmethod
    def of(
        cls, request: EvalRequest, split: Split, protocol: Protocol, classifier: Classifier, referee: Referee
    ) -> "PreparedEvaluation":
        """Prepares the evaluation of a loaded classifier; the referee has a copy of its own.

        Raises UserError when the seed, the precision or the level of masking checks is invalid.
        """
        return cls(request, split, protocol, classifier, referee, _plan(request, split, protocol, classifier))

    @property
    def default_run(self) -> Path:
        """The run file of this evaluation when the user names none."""
        return default_run(self.plan)

    def evaluation(
        self,
        run: RunFile,
        *,
        progress: Progress | None = None,
        minutes: float | None = None,
        stop_when: StopCriterion | None = None,
        elsewhere: Callable[[Evaluation, Round], bool] | None = None,
    ) -> Evaluation:
        """The evaluation that answers the request into a run file; `elsewhere` searches its rounds in its place."""
        # The plan comes first: in another memory layout a stochastic model meets other noise, and changes its identity.
        notes = {
            "model": "; ".join(self.loading_notes),
            "inferred": self.inferred,
            "returned": outputs.caution(self.classifier.module),
            "data": self.split.caution,
            "training": cautions.of_training(self.split, _trained(self.card)),
            "labels": cautions.of_class_names(
                self.split, self.classifier.classes, mapped=bool(self.request.preparation.labels)
            ),
        }
        sample = self.request.sample(self.protocol)
        if sample and sample.count == len(self.split):
            notes["sample"] = sample.about
        if why := use_channels_last(self.classifier, self.split.x):
            notes["layout"] = f"the weights stay in the layout they have: channels last {why}"
        return Evaluation(
            plan=self.plan,
            protocol=self.protocol,
            classifier=self.classifier,
            referee=self.referee,
            split=self.split,
            run=run,
            environment=self._environment(),
            progress=progress or Silence(),
            deadline=float("inf") if minutes is None else time.monotonic() + 60 * minutes,
            stop_when=stop_when,
            elsewhere=elsewhere,
            masking=self.request.masking_check,
            notes=Notes(texts={kind: text for kind, text in notes.items() if text}),
        )

    def _environment(self) -> dict[str, str]:
        module = self.classifier.module
        return environment(self.classifier.device) | model_size(module) | model_confinement(module) | self.metadata

    @plain_process()
    def answer(self, run: str | Path | None = None, stop_when: StopCriterion | None = None) -> EvalResult:
        """The result, with its evidence in the run file at this path, or in memory without one."""
        with RunFile.open(Path(run)) if run is not None else RunFile.in_memory() as file:
            evaluation = self.evaluation(file, stop_when=stop_when)
            evaluation.answer()
            return EvalResult.of(evaluation)


@plain_process()
def prepare(
    request: EvalRequest,
    source: ModelSource,
    chosen: tuple[Split, Protocol] | None = None,
    *,
    command: str = "",
) -> PreparedEvaluation:
    """Loads data and model for a request. `chosen` examples and protocol replace the requested ones.

    `command` is what the user typed. Raises UserError for whatever cannot be evaluated; nothing is written.
    """
    card = source.card()
    if chosen is None and request.data is None and not request.data_name(card):
        raise _data_missing(source)
    split, protocol = chosen or choose(request, card)
    loaded = source.load(split)
    source = source.settled(loaded)
    metadata = source.metadata(request.data_name(card), request.preparation) | dict(loaded.recorded)
    return replace(
        PreparedEvaluation.of(request, split, protocol, loaded.classifier, Referee(source.load(split).classifier)),
        metadata=metadata | ({"command": command} if command else {}),
        card=card,
        source=source,
        loading_notes=loaded.notes,
        inferred=loaded.inferred.caution if loaded.inferred else "",
    )


def _trained(card: Card | None) -> cautions.Trained:
    """What the card says about the images of the training."""
    return cautions.Trained(card.data, images_held_out(card), training_images(card)) if card else cautions.Trained()


def default_run(plan: Plan) -> Path:
    """The run file when the user names none: one per model, data set, seed and shard.

    Later questions about the three add to the same file.
    """
    model = plan.model
    about = [model.weights_sha256, model.architecture, model.normalisation, plan.data, str(plan.seed)]
    key = hashlib.sha256("\n".join(about).encode()).hexdigest()[:8]
    data = plan.data.partition(":")[0]
    name = model.name if model.name.startswith(data) else f"{model.name}-{data}"
    part = "".join(f"-{shard.index}-of-{shard.count}" for shard in plan.shards)
    return Path("runs") / f"{as_file_name(name)}-{key}{part}.robench"


def _plan(request: EvalRequest, split: Split, protocol: Protocol, classifier: Classifier) -> Plan:
    seed = protocol.seed if request.seed is None else request.seed
    if not 0 <= seed < SEEDS:
        whose = f" of the protocol {protocol.name}" if request.seed is None else ""
        raise UserError(f"the seed {seed}{whose} is out of range; it goes from 0 to {SEEDS - 1}")
    if request.masking_check != "off" and request.shard:
        raise UserError(
            f"masking is checked on all examples, not on shard {request.shard}; leave --masking out here, merge the"
            " shards, and add --masking to `robench evaluate --run MERGED` without --shard"
        )
    plan = make_plan(
        *(classifier, split, protocol),
        seed=seed,
        every_attack=request.every_attack,
        curve=request.curve,
        slots=SLOTS.get(classifier.device.type, SLOTS["cuda"]),
        precision=request.precision,
    )
    return sharded(plan, request.shard)


def _data_missing(source: ModelSource) -> UserError:
    """Names the data sets whose images the model can read, as far as its weights show."""
    if not isinstance(source, CheckpointSource):
        return UserError("name the data with data=..., for example data='mnist'")
    shape = source.load().classifier.shape
    fitting = datasets.fitting(shape)
    images = "x".join(map(str, shape))
    listed = f"{', '.join(fitting)} have images of {images}" if fitting else f"a FILE.npz with images of {images}"
    return UserError(f"name the data with --data: {listed}")
