"""A suite: models x data x protocols, each an evaluation with a run file of its own. Reads its TOML file."""

import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from msgspec import Meta

from .. import protocols
from ..errors import UserError, unknown
from ..evidence.records import Shard
from ..masking.schedule import requested
from ..problem import subsets, toml
from ..problem.architectures.factories import named_factory
from ..problem.names import as_file_name
from ..search.engine.precision import PRECISIONS
from .model_source import CheckpointSource
from .request import EvalRequest

FORM = "models = ['digits-nat', 'digits-adv-linf']"
MAX_RUNS = 10_000  # evaluations of one suite

Word = Annotated[str, Meta(min_length=1, max_length=1000)]


class SuiteModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model of a suite, as the options of `robench evaluate` describe one. Its data replace those of the suite."""

    checkpoint: Word
    arch: Word | None = None
    weights: Word | None = None
    normalise: Word | None = None
    data: Word | None = None


class SuiteFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a suite's file. Options without a value are those of the cards, data sets and protocols."""

    models: Annotated[tuple[Word | SuiteModel, ...], Meta(min_length=1)]
    data: Annotated[tuple[Word, ...], Meta(min_length=1)] | None = None
    protocols: Annotated[tuple[Word, ...], Meta(min_length=1)] | None = None
    examples: Word | Annotated[int, Meta(ge=1)] | None = None
    seed: Annotated[int, Meta(ge=0, lt=2**32)] | None = None
    precision: Word | None = None
    masking: Word = "auto"
    every_attack: bool = False
    curve: bool = False


@dataclass(frozen=True)
class SuiteRun:
    """One evaluation of a suite."""

    model: SuiteModel
    protocol: str | None
    options: SuiteFile

    @property
    def name(self) -> str:
        """A name for its files: readable parts, and a hash of everything that it is about."""
        about = [Path(self.model.checkpoint).stem, self.model.data, self.protocol and Path(self.protocol).stem]
        key = hashlib.sha256("\n".join(self.words(masking=True)).encode()).hexdigest()[:6]
        return f"{as_file_name('-'.join(filter(None, about)))[:80]}-{key}"

    def words(self, shard: Shard | None = None, *, masking: bool = False) -> list[str]:
        """The words of the command that evaluates it, without the run file."""
        o, m = self.options, self.model
        valued = {
            "--arch": m.arch,
            "--weights": m.weights,
            "--normalise": m.normalise,
            "--data": m.data,
            "--protocol": self.protocol,
            "--examples": o.examples,
            "--seed": o.seed,
            "--precision": o.precision,
            "--masking": o.masking if masking and o.masking != "auto" else None,
            "--shard": shard,
        }
        words = ["robench", "evaluate", m.checkpoint]
        for option, value in valued.items():
            words += [option, str(value)] if value is not None else []
        return words + [f"--{flag}" for flag, on in (("every-attack", o.every_attack), ("curve", o.curve)) if on]

    def request(self) -> EvalRequest:
        """The same question as `words`."""
        o = self.options
        return EvalRequest(
            data=self.model.data,
            protocol=self.protocol,
            examples=None if o.examples is None else str(o.examples),
            seed=o.seed,
            every_attack=o.every_attack,
            curve=o.curve,
            precision=o.precision,
            masking=o.masking,
        )

    def source(self, device: torch.device) -> CheckpointSource:
        """Its model. Loading it runs code where `runs_code` is true."""
        m = self.model
        return CheckpointSource(m.checkpoint, m.arch, m.normalise, device=device, weights=m.weights)

    @property
    def runs_code(self) -> bool:
        """Whether its architecture is code, which only a command that a person types may run."""
        return self.model.arch is not None and named_factory(self.model.arch)


def read(path: Path) -> list[SuiteRun]:
    """The evaluations that a suite's file names, in the order models, data, protocols.

    Raises UserError for a file that is no suite, and for an evaluation that is named twice.
    """
    table = toml.read(path)
    _refuse_unknown(path, table)
    try:
        suite = toml.converted(table, SuiteFile)
    except UserError as error:
        raise UserError(f"{path} is no suite: {error}; `robench plan --help` lists its keys, as in {FORM}") from None
    try:
        _refuse_unreadable(suite)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    models = [SuiteModel(model) if isinstance(model, str) else model for model in suite.models]
    placed = [
        msgspec.structs.replace(model, data=data)
        for model in models
        for data in ((model.data,) if model.data else suite.data or (None,))
    ]
    pairs = list(itertools.islice(itertools.product(placed, suite.protocols or (None,)), MAX_RUNS + 1))
    if len(pairs) > MAX_RUNS:
        raise UserError(f"{path} names more than {MAX_RUNS:,} evaluations; divide it")
    runs = [SuiteRun(model, protocol, suite) for model, protocol in pairs]
    for place, run in enumerate(runs):
        for word in run.words():
            if not word.isprintable() or (word.startswith("-") and not word.startswith("--")):
                raise UserError(f"{path} names {word[:100]!a}, which no command takes; write it in another way")
        if run in runs[:place]:
            raise UserError(f"{path} names an evaluation of {run.model.checkpoint} twice; name it once")
    return runs


def _refuse_unreadable(suite: SuiteFile) -> None:
    """Raises UserError for values that no evaluation takes. Models and files are not sought."""
    requested(suite.masking)
    if suite.precision is not None and suite.precision not in ("auto", *PRECISIONS):
        raise unknown("precision", suite.precision, ("auto", *PRECISIONS))
    if suite.examples is not None:
        subsets.refuse_unreadable(str(suite.examples))
    for name in suite.protocols or ():
        if not name.endswith(".toml") and name not in protocols.names():
            raise unknown("protocol", name, protocols.names())


def _refuse_unknown(path: Path, table: dict[str, Any]) -> None:
    for entry, known in ((table, SuiteFile), *((m, SuiteModel) for m in _tables(table.get("models")))):
        for key in entry:
            if key not in known.__struct_fields__:
                error = unknown(
                    "key of a suite" if known is SuiteFile else "key of a model", key, known.__struct_fields__
                )
                raise UserError(f"{path}: {error}")


def _tables(models: Any) -> list[dict[str, Any]]:
    return [model for model in models if isinstance(model, dict)] if isinstance(models, list) else []
