"""`robench train`: train a model by a recipe, then evaluate it."""

import signal
from collections.abc import Iterator
from contextlib import suppress
from math import isfinite
from pathlib import Path
from typing import Any

import click
import torch

from .. import protocols
from ..errors import UserError, counted
from ..evaluation.environment import commit, hardware, pick_device
from ..evaluation.measured_card import write_measured
from ..evaluation.model_source import CheckpointSource
from ..evaluation.prepared import prepare
from ..evaluation.request import EvalRequest
from ..problem import datasets, subsets, threats
from ..problem.split import Split
from ..protocols import Protocol
from ..recipes import configure, setting
from ..recipes.data_parallel import ALONE, Ranks, launched, local_device, together
from ..recipes.making import Order, default_architecture, make, usual_validation
from ..recipes.recipe import Recipe
from ..recipes.validation import seen_before
from ..results.measured import refuse_unmeasured
from ..results.tables import render
from ..search.engine.precision import has_hardware
from .display import TrainingDisplay
from .running import command_line, interrupt, run_shown
from .terminal import echo

STOPPED = 130


def run(device: str, **options: Any) -> int:
    """Runs the command, in one process or in those of torchrun; commands/train.py documents its options."""
    if not launched():
        return _run(pick_device(device), ALONE, **options)
    own = local_device(pick_device(device))
    return together(own, lambda ranks: _run(own, ranks, **options))


def _run(
    picked: torch.device,
    ranks: Ranks,
    recipe: str,
    data: str,
    pseudo_labelled: str | None,
    threat_texts: tuple[str, ...],
    arch: str | None,
    start: str,
    epochs: float | None,
    seed: int,
    settings: tuple[str, ...],
    out: Path | None,
    half: bool,
    compiled: bool | None,
    validation: int | None,
    precision: str,
    resume: bool,
    protocol: str | None,
    no_evaluation: bool,
    quiet: bool,
) -> int:
    """Trains the model, then evaluates it. The first process alone prints, and evaluates."""
    quiet = quiet or not ranks.first
    _refuse_unfit(data)
    data = data.removesuffix(":train")  # what is trained on in any case; the evaluation is on the test part
    name, undivided = datasets.title(data), datasets.is_undivided(data)
    if (published := datasets.find(name)) and "test" not in published.parts and not no_evaluation:
        raise UserError(f"{data} has no test images to evaluate the model on; give --no-evaluation")
    if protocol is not None and not no_evaluation:
        _refuse_held_out(protocols.load(protocol, name), protocol)  # now, and not after the training
    split = datasets.load(f"{data}:{datasets.REST}" if undivided else data, "train")
    measured_on = f"{data}:{datasets.HELD_OUT}" if undivided else data
    held_out = usual_validation(len(split)) if validation is None else validation
    configured = _configured(recipe, name, _settings(settings), epochs, len(split) - held_out)
    against = tuple(map(threats.parse, threat_texts))
    configured.check(against)
    order = Order(
        recipe=configured,
        threats=against,
        data=measured_on,
        architecture=arch or default_architecture(name),
        seed=seed,
        out=out or Path("-".join([name, recipe, *(t.name for t in against)])),
        command=ranks.launcher + command_line(),
        half=half,
        validation=held_out,
        precision=precision,
        start=start,
        commit=commit(picked),
        hardware=hardware(picked),
        compiled=picked.type == "cuda" and not configured.twice_differentiated if compiled is None else compiled,
        restarted=not resume,
        pseudo=_pseudo_labelled(pseudo_labelled, measured_on, split, held_out) if pseudo_labelled else None,
        ranks=ranks,
    )
    if undivided and not quiet:
        click.echo(
            f"note: {data} has no test part, so the model is trained on {len(split)} of its images, and measured on the"
            f" others ({order.data})",
            err=True,
        )
    if precision == "bfloat16" and not has_hardware(precision, picked) and not quiet:
        click.echo(
            "note: this device has no hardware for bfloat16, which is slower here than float32; to train faster, stop"
            " with Ctrl-C and leave out --precision bfloat16",
            err=True,
        )
    if not quiet:
        _note_seen_before(order, split)
    if not _train(order, split, picked, quiet):
        return STOPPED
    return 0 if no_evaluation or not ranks.first else _evaluate(order, picked, protocol, quiet)


def _note_seen_before(order: Order, split: Split) -> None:
    """Prints a note where the model to start from may have been trained on images that are held out now."""
    with suppress(UserError):  # a start that is missing is refused by `make`
        if not seen_before(order.start, split, order.validation):
            return
        click.echo(
            f"note: {order.start} may have been trained on images that are held out now, so the accuracy on them may be"
            " too high; to choose settings by it, start from a model whose card says that it held as many out",
            err=True,
        )


def _refuse_unfit(data: str) -> None:
    """Raises UserError for a folder, and for images that models are measured on."""
    if datasets.is_folder(data):
        raise UserError(f"train does not read folders of images such as {data}; put them into an .npz file")
    if (part := datasets.named_part(data)) in datasets.MEASURED_ON:
        raise UserError(
            f"--data {data} holds the images that models are measured on, and a model trained on them would score"
            f" higher than it should; train on the others with --data {data.removesuffix(':' + part)}"
        )


def _refuse_held_out(protocol: Protocol, text: str) -> None:
    """Raises UserError for a protocol of training images: the evaluation after a training is on test images."""
    sample = subsets.Sample.parse(protocol.examples) if protocol.examples else None
    if sample and sample.kind == subsets.HELD_OUT:
        raise UserError(
            f"the protocol {text} is of training images ({sample}), and train evaluates on test images; give"
            " --no-evaluation, and evaluate with --data NAME:train"
        )


def _configured(recipe: str, data: str, settings: dict[str, Any], epochs: float | None, images: int) -> Recipe:
    """The recipe with its settings; epochs, of so many images each, replace its number of steps."""
    configured = configure(recipe, data, settings)
    if epochs is None:
        return configured
    if "steps" in settings:
        raise UserError("--epochs and --set steps=... both set the length of the training; give one of them")
    if not isfinite(epochs):
        raise UserError(f"--epochs {epochs} never ends; give a number, like --epochs 10")
    return configure(recipe, data, {**settings, "steps": max(1, round(epochs * images / configured.batch))})


def _pseudo_labelled(text: str, measured_on: str, split: Split, count: int) -> Split:
    """The pseudo-labelled images. Raises UserError if some are held out, or if the model will be measured on them."""
    pseudo, measured = datasets.load(text, "train"), datasets.load(measured_on)
    if shared := _shared(pseudo, measured):
        raise UserError(
            f"--pseudo-labelled {text} holds {shared} of {measured.name}, on which the model is measured; leave them"
            " out"
        )
    if shared := _shared(pseudo, split.take(sorted(subsets.held_out(len(split), count)))):
        raise UserError(
            f"--pseudo-labelled {text} holds {shared} that the training holds out; leave them out, or add"
            " --validation 0"
        )
    return pseudo


def _shared(one: Split, other: Split) -> str:
    """How many images of one are images of the other, too; empty if none are."""
    known = set(_in_8_bits(other))
    shared = sum(image in known for image in _in_8_bits(one))
    return counted(shared, "image") if shared else ""


def _in_8_bits(split: Split) -> Iterator[bytes]:
    """Every image with 8 bits per pixel."""
    return ((255 * image).round().to(torch.uint8).numpy().tobytes() for image in split.x)


def _train(order: Order, split: Split, device: torch.device, quiet: bool) -> bool:
    """Trains the model and prints where it is. False when the user stopped the training."""
    before = order.card.stat().st_mtime_ns if order.card.exists() else None
    signal.signal(signal.SIGTERM, interrupt)
    display = TrainingDisplay(quiet, order.recipe.batch)
    try:
        card = make(order, split, device, display, display.validated)
    except KeyboardInterrupt:
        if not order.ranks.first:
            return False
        if order.state.exists():
            again = "type the same command without --no-resume" if order.restarted else "type the same command again"
            echo(f"\nstopped; {order.state} holds the state so far: {again} to continue", err=True)
        else:
            echo("\nstopped before the first step; type the same command again to start", err=True)
        return False
    if card is None:  # the first process has written it
        return True
    done = "exist already" if before == order.card.stat().st_mtime_ns else "are written"
    echo(f"{order.weights} and {order.card} {done} ({card.minutes} minutes)", err=True)
    return True


def _evaluate(order: Order, device: torch.device, protocol: str | None, quiet: bool) -> int:
    """Evaluates the trained model and writes the result onto its card. Returns the exit code."""
    # Only the command line may name code: the card does not.
    source = CheckpointSource(str(order.weights), arch=order.architecture if order.factory else None, device=device)
    prepared = prepare(EvalRequest(protocol=protocol, masking="auto"), source, command=command_line())
    result = run_shown(prepared, None, None, quiet)
    refuse_unmeasured(result.summary)
    echo(render([result.summary], intervals=True), nl=False)
    if result.finished:
        write_measured(order.card, result.summary)
    return 0 if result.finished else STOPPED


def _settings(texts: tuple[str, ...]) -> dict[str, Any]:
    pairs = list(map(_setting, texts))
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"--set {key}=... is given {keys.count(key)} times; set each number once")
    return dict(pairs)


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"cannot read --set {text}; write it like --set inner_steps=20")
    return key, setting(value)
