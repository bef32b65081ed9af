"""The work of one worker: the searches of its leases, with a model, a referee and a device of its own."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ...evidence.records import Plan
from ...evidence.referee import Referee
from ...problem.classifier import Classifier
from ...problem.module_copy import own_copy
from ...results.summary import Summary
from ...search.engine.engine import Engine
from ...search.engine.trial import use_channels_last
from ..notes import Notes
from ..rounds import Round
from ..runner import Evaluation
from .messages import Finished, Lease, Message, Moved, Noted, Report, Setup
from .recorder import Recorder

EVERY = 0.2  # seconds between messages about progress


@dataclass
class Searcher:
    """Answers leases. Its referee has weights of its own, as everywhere."""

    setup: Setup
    send: Callable[[Message], None]
    plan: Plan = field(init=False)  # with fewer slots after a memory shortage
    classifier: Classifier = field(init=False)
    referee: Referee = field(init=False)
    engine: Engine | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        setup = self.setup
        self.plan = setup.plan
        self.classifier, judged = (_loaded(setup) for _ in range(2))
        self.referee = Referee(judged, setup.plan.passes)
        use_channels_last(self.classifier, setup.split.x)  # as before a search in one process

    def answer(self, lease: Lease) -> None:
        """Searches the examples of a lease, and sends what it finds, until nothing is left to do."""
        run = Recorder.knowing(lease.evidence, lambda records: self.send(Report(lease.number, records)))
        with run:
            evaluation = Evaluation(
                plan=self.plan,
                protocol=self.setup.protocol,
                classifier=self.classifier,
                referee=self.referee,
                split=self.setup.split,
                run=run,
                progress=_Sender(lease.number, self.send),
                notes=Notes(texts=dict(self.setup.notes)),
                engine=self.engine,
                only=frozenset(lease.examples),
            )
            evaluation.search_round(self._round(lease))
            self.engine, self.plan = evaluation.engine, evaluation.plan
        self.send(Finished(lease.number))

    def _round(self, lease: Lease) -> Round:
        protocol, plan = self.setup.protocol, self.plan
        steps = [
            (protocol.threats[t], plan.threats[t].attacks[a], protocol.threats[t].attacks[a]) for t, a in lease.steps
        ]
        return Round(steps, lease.part)


@dataclass
class _Sender:
    """Sends the progress of a lease to the driver."""

    lease: int
    send: Callable[[Message], None]
    attack: tuple[str, str] = ("", "")
    sent_at: float = float("-inf")

    def clean(self, summary: Summary) -> None:
        pass

    def attacking(self, threat: str, attack: str) -> None:
        self.attack = threat, attack

    def moved(self, standing: int, queries_done: int, queries_left: int) -> None:
        now = time.monotonic()
        if now - self.sent_at >= EVERY:
            self.sent_at = now
            self.send(Moved(self.lease, self.attack, queries_done, queries_left))

    def noted(self, text: str) -> None:
        self.send(Noted(text))


def _loaded(setup: Setup) -> Classifier:
    """The model, with weights that nothing else uses."""
    model = setup.model
    if isinstance(model, Classifier):
        copied = Classifier(
            own_copy(model.module),
            name=model.name,
            architecture=model.architecture,
            shape=model.shape,
            classes=model.classes,
            normalisation=model.normalisation,
        )
        return copied.to(setup.device)
    return replace(model, device=setup.device).load(setup.split).classifier
