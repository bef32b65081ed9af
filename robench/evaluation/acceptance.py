"""Whether a submission holds: its run file is compared with the weights and the data, and its standing examples tested.

Everything comes from a stranger. The run file is opened as such; the data are those of a name that robench knows; the
weights are found by their hash, and no code of theirs runs. What the run file states about where its model, its data
and their preparation are is not read.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from .. import protocols
from ..errors import UserError, counted
from ..evidence.images import Image
from ..evidence.records import Evidence, Plan, PlannedThreat
from ..evidence.referee import Referee
from ..evidence.refutation import Facts
from ..evidence.store import RunFile, is_run_file
from ..problem import datasets, durable
from ..problem.cache import cache_folder
from ..problem.checkpoints.cards import Card, read_card
from ..problem.checkpoints.nested import by
from ..problem.checkpoints.zoo import zoo_card, zoo_names
from ..problem.datasets import DATASETS
from ..problem.download import Download, fetch
from ..problem.split import Split
from ..protocols import OWN_THREATS
from ..results.masking.indicators import tail
from ..results.merging import MERGED
from .claims import PROTOCOL
from .environment import date, environment
from .model_source import CheckpointSource
from .planning import planned_examples
from .progress import Progress
from .recorded import recorded_plan
from .spot_check import Found, SpotCheck, spot_check
from .verification import min_passes, verify

MAX_WEIGHTS = 2**31  # bytes of a file with weights
HONEST = 0.02  # of an honest run's standing examples, the share that such a search breaks at the most
UNLIKELY = 0.01  # an honest run is refused by accident no more often than this


@dataclass(frozen=True, eq=False)
class Verified:
    """A run file in which everything holds that can be recomputed."""

    plan: Plan
    evidence: Evidence
    shown: frozenset[int]  # claims whose images are stored, and were judged again
    whole: Split  # all examples of the data
    split: Split  # the planned ones
    source: CheckpointSource
    referee: Referee
    card: Card | None


def verified(run_path: Path, run_sha256: str, weights: Path, device: torch.device) -> Verified:
    """The content of the run file with this hash. `weights` is the card of a bundled or submitted model.

    Raises UserError, in one sentence, if anything does not hold.
    """
    if (found := durable.sha256(run_path)) != run_sha256:
        raise UserError(f"the hash of its run file is {found[:16]}..., not {run_sha256[:16]}... as it states")
    with RunFile.read(run_path) as run:
        plan, evidence = recorded_plan(run, hint="there is nothing to verify"), run.evidence()
        whole = datasets.load(_data(plan))
        split = planned_examples("its run file", plan, whole)
        source = CheckpointSource(str(weights), device=device, infer=False)
        loaded = source.load(split)
        if loaded.card is not None and loaded.card.shape != split.shape:
            raise UserError(
                f"its card states images of {by(loaded.card.shape)}, and those of {whole.name} are {by(split.shape)}"
            )
        referee = Referee(loaded.classifier, plan.passes)
        facts = Facts(
            whole=whole,
            classifier=referee.classifier,
            model=referee.classifier.name,
            data=whole.name,
            min_passes=min_passes,
        )
        shown: set[int] = set()
        faults = verify(plan, evidence, _counted(run.images(split.shape), shown), facts).faults
    if faults:
        more = f", and {counted(len(faults) - 1, 'more fault')}" if len(faults) > 1 else ""
        raise UserError(f"its run file does not hold: {faults[0]}{more}")
    return Verified(plan, evidence, frozenset(shown), whole, split, source, referee, loaded.card)


def _counted(images: Iterator[tuple[int, Image]], shown: set[int]) -> Iterator[tuple[int, Image]]:
    """The images, whose claims are added to `shown`."""
    for claim, image in images:
        shown.add(claim)
        yield claim, image


def _data(plan: Plan) -> str:
    """The name of the data. Raises UserError unless they are the test images of a data set that robench knows."""
    name = plan.data.removesuffix(":test")
    if name not in DATASETS or plan.data != f"{name}:test":
        raise UserError(
            f"it is about {plan.data[:100]!a}; a submission is about the test images of {', '.join(DATASETS)}"
        )
    return name


# A new model


def check_new(plan: Plan, others: Sequence[Plan]) -> None:
    """Raises UserError if the run of a new model could not stand beside those of `others`, the plans on the board.

    Its attacks must be those of a protocol that robench brings along, and its examples must not be a choice of its own.
    """
    for name in plan.protocol.split(MERGED):
        base, *own = name.split(", ")
        if base not in protocols.names() or not set(own) <= {OWN_THREATS}:
            raise UserError(
                f"it follows the protocol {plan.protocol[:100]!a}; a new model needs a run by a protocol of robench"
                " with its own attacks, as in evaluate --protocol quick"
            )
    if not plan.threats:
        raise UserError(
            "it names no threat, so it says nothing about robustness; evaluate the model with another protocol"
        )
    same = (other.examples for other in others if other.data == plan.data)
    if plan.examples != tuple(range(len(plan.examples))) and plan.examples not in same:
        raise UserError("it is about a choice of examples; take the first ones, or those of a table of the board")


def search_again(run: Verified, known: Evidence, n: int, seed: int, progress: Progress) -> SpotCheck:
    """Searches n standing examples again. `known` is all evidence about the model, that of the run included.

    Raises UserError if more are broken than an honest run would lose, or if nothing can be searched.
    """
    found = spot_check(
        *(run.plan, known, run.whole, run.source.load(run.split).classifier, run.referee),
        n=n,
        seed=seed,
        progress=progress,
    )
    if not found.finished:
        raise KeyboardInterrupt
    if found.examples_broken > acceptable(found.searched):
        raise UserError(
            f"of {found.searched} standing examples that were searched again (seed {seed}) {found.examples_broken} were"
            f" broken; an honest run loses at most {acceptable(found.searched)}"
        )
    return found


def acceptable(n: int) -> int:
    """The largest number of n standing examples that an honest run loses, but for one in a hundred (UNLIKELY)."""
    return max(k for k in range(n + 1) if tail(k, n, HONEST) >= UNLIKELY)


@dataclass(frozen=True, eq=False)
class FoundRun:
    """Images that broke standing examples, as `robench claim` keeps them: a run that plans no attack."""

    plan: Plan
    evidence: Evidence
    images: tuple[Image, ...]  # of the claims, in their order


def found_run(run: Verified, found: Sequence[Found]) -> FoundRun:
    """What a search of standing examples has found, as a run of its own, dated now."""
    put = msgspec.structs.replace
    plan = put(run.plan, protocol=PROTOCOL, threats=tuple(PlannedThreat(t.threat, ()) for t in run.plan.threats))
    evidence = Evidence(
        clean=run.evidence.clean,
        claims=tuple(put(claim, id=number) for number, (claim, _, _) in enumerate(found, start=1)),
        verdicts=tuple(put(verdict, claim=number) for number, (_, verdict, _) in enumerate(found, start=1)),
        environment=environment(run.source.device) | {"date": date()},
    )
    return FoundRun(plan, evidence, tuple(image for _, _, image in found))


def write_found(path: Path, found: FoundRun) -> None:
    """Writes the run to a new file; a file that holds the same finds, as after the same search, stays as it is.

    Raises UserError if it exists with other finds, or cannot be written.
    """
    if _holds(path, found):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path.parent} cannot be created: {error.strerror}; name another folder") from None
    with RunFile.whole(path) as file, file.writing():
        file.put_plan(found.plan, found.evidence.environment)
        file.put_clean(found.evidence.clean)
        for (claim, verdict), image in zip(found.evidence.judged(), found.images, strict=True):
            file.put_judged(claim, verdict, image)


def _holds(path: Path, found: FoundRun) -> bool:
    """Whether a file is a run file with exactly these finds."""
    if not path.is_file() or not is_run_file(path):
        return False
    with RunFile.read(path) as run:
        evidence = run.evidence()
        return (run.plan(), evidence.claims, evidence.verdicts) == (
            found.plan,
            found.evidence.claims,
            found.evidence.verdicts,
        )


# Weights


def bundled(sha256: str) -> Path | None:
    """The card of the bundled model whose weights have this hash."""
    return next((zoo_card(name) for name in zoo_names() if read_card(zoo_card(name)).sha256.lower() == sha256), None)


@contextmanager
def beside_card(card: Path, sha256: str, files: Sequence[Path], address: str) -> Iterator[Path]:
    """A copy of a submitted card, beside its weights: the file with this hash among `files`, else from the address.

    Raises UserError if the card is about other weights, or they cannot be had.
    """
    held = read_card(card)
    if held.sha256.lower() != sha256:
        raise UserError(
            f"its card is for weights with the hash {held.sha256[:16]!a}, not {sha256[:16]}... as it states"
        )
    if held.name in zoo_names():
        raise UserError(f"it calls its model {held.name}, and that is a bundled model with other weights")
    weights = next((file for file in files if durable.sha256(file) == sha256), None)
    if weights is None:
        weights = downloaded(address, sha256)
    with tempfile.TemporaryDirectory(prefix="robench-") as folder:
        place = Path(folder) / "card.toml"
        shutil.copyfile(weights, Path(folder) / held.weights)
        shutil.copyfile(card, place)
        yield place


def downloaded(address: str, sha256: str) -> Path:
    """The weights at an address, in the cache. Raises UserError if they are not those with this hash, or are large."""
    if not address:
        raise UserError("it states no address of its weights; name their file with --weights")
    wanted = Download(sha256, f"sha256:{sha256}", (address,), max_bytes=MAX_WEIGHTS, tls=True)
    way_out = "name their file with --weights"
    return fetch(wanted, cache_folder() / "submissions", subject="the file of its weights", way_out=way_out)
