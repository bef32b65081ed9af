"""`robench inspect`: what a checkpoint holds, what is recognised in it, and what to type."""

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from ..errors import ProgramEnded, UserError, counted
from ..evaluation.model_source import CheckpointSource
from ..problem import datasets
from ..problem.architectures.factories import Factory, named_factory
from ..problem.checkpoints import Loaded
from ..problem.checkpoints.nested import by
from ..problem.checkpoints.origin import Origin, opened
from ..problem.losses import misclassified
from ..problem.names import shown
from ..problem.split import Split
from .options import preparation
from .terminal import echo, one_line

FEW = 12  # tensors that are listed without --tensors
TRIED = 200  # clean images on which the accuracy is measured
BATCH = 50


def run(
    checkpoint: str,
    data: str | None,
    arch: str | None,
    weights: str | None,
    normalise: str | None,
    trust_pickle: bool,
    tensors: bool,
    **prepared: str | None,
) -> int:
    """Runs the command; commands/inspect.py documents its options."""
    factory = Factory.parse(arch) if arch is not None and named_factory(arch) else None
    origin = opened(checkpoint, trust_pickle=trust_pickle, device=torch.device("cpu"), script=factory)
    data = data or (origin.card.data if origin.card else None)
    split = None if data is None else _some(data, prepared)
    _section("file", _held(origin, all_tensors=tensors))
    source = CheckpointSource(checkpoint, arch, normalise, trust_pickle, weights=weights)
    try:
        loaded = source.load(split)
    except (UserError, ProgramEnded) as error:
        _section("not ready", [str(error)])
        return 1
    _section("model", [*_recognised(loaded), *_measured(loaded, split)])
    _section("type", [_evaluate(source.settled(loaded), data)])
    return 0


def _section(title: str, lines: Iterable[str]) -> None:
    """Prints lines below a title. What a file says may hold anything: each stays on one line."""
    echo(title)
    for line in lines:
        echo(f"  {one_line(line)}")


def _some(data: str, prepared: dict[str, str | None]) -> Split:
    """Some of the images, spread over the data set, as it may be sorted by class."""
    whole = datasets.source(data, preparation=preparation(dict(prepared)))
    step = max(1, len(whole) // TRIED)
    return whole.take(range(0, len(whole), step)[:TRIED])


def _held(origin: Origin, *, all_tensors: bool) -> Iterator[str]:
    """What the file holds, a line for each kind."""
    path, contents = origin.path, origin.contents
    numbers = sum(tensor.numel() for tensor in contents.tensors.values())
    what = "a whole model" if contents.module is not None else counted(len(contents.tensors), "tensor")
    size = f"{path.stat().st_size:,} bytes, " if path.is_file() else ""
    yield f"{path}: {size}{what}, {numbers:,} numbers"
    yield from (f"{key}: {value}" for key, value in origin.recorded.items())
    yield from (f"metadata {key}: {value}" for key, value in _short(contents.metadata))
    sets = Counter(contents.nested.container(name) for name in contents.tensors)
    if len(sets) > 1 or any(sets):
        named = (f"{shown(prefix[:-1]) or 'the top'} ({counted(n, 'tensor')})" for prefix, n in sets.items())
        yield f"sets: {', '.join(named)}"
    listed = list(contents.tensors.items())
    for name, tensor in listed if all_tensors else listed[:FEW]:
        yield f"{shown(name)}: {by(tensor.shape) or 'a number'}, {str(tensor.dtype).removeprefix('torch.')}"
    if len(listed) > FEW and not all_tensors:
        yield f"and {len(listed) - FEW} more; --tensors lists them"


def _short(metadata: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The metadata in short: a file may hold texts of any length."""
    for key, value in sorted(metadata.items())[:FEW]:
        yield shown(key), shown(value)


def _recognised(loaded: Loaded) -> Iterator[str]:
    model = loaded.classifier
    yield f"architecture: {model.architecture}"
    yield f"images: {by(model.shape)}; classes: {model.classes}; normalisation: {model.normalisation}"
    cautions = [loaded.inferred.caution] if loaded.inferred and loaded.inferred.caution else []
    yield from (f"note: {note}" for note in (*loaded.notes, *cautions))


def _measured(loaded: Loaded, split: Split | None) -> Iterator[str]:
    """The accuracy on clean images, where they are at hand."""
    if split is None:
        yield "accuracy: not measured; name images with --data"
        return
    correct = 0
    for start in range(0, len(split), BATCH):
        rows = slice(start, start + BATCH)
        correct += int((~misclassified(_logits(loaded, split.x[rows]), split.y[rows])).sum())
    yield f"accuracy: {100 * correct / len(split):.1f} % of {counted(len(split), 'clean image')} of {split.name}"


def _logits(loaded: Loaded, x: Tensor) -> Tensor:
    with torch.no_grad():
        return loaded.classifier(x)


def _evaluate(source: CheckpointSource, data: str | None) -> str:
    """The command that evaluates the model as it was read here."""
    words = ["robench", "evaluate", source.checkpoint]
    named = {"--data": data, "--arch": source.arch, "--normalise": source.normalise, "--weights": source.weights}
    for option, value in named.items():
        words += [option, value] if value else []
    words += ["--trust-pickle"] if source.trust_pickle else []
    return shlex.join(words) + ("" if data else " --data NAME")
