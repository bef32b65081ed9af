"""`robench train`: make a model by a recipe, then measure it."""

import ast
import shlex
import signal
import sys
from math import isfinite
from pathlib import Path
from typing import Any

import click

from .. import api
from ..api import EvalRequest, ModelSource
from ..errors import UserError
from ..problem import datasets, threats
from ..recipes import configure
from ..recipes.making import Order, default_architecture, make, usual_validation
from ..results.measured import refuse_unmeasured
from ..results.tables import render
from .display import TrainingDisplay
from .options import machine_options
from .running import ask_about, interrupt
from .terminal import echo


@click.command("train")
@click.argument("recipe")
@click.option("--data", default="digits", show_default=True, metavar="NAME|FILE.npz", help="The training images.")
@click.option("--threat", "threat_texts", multiple=True, metavar="THREAT", help="What to train against; repeatable.")
@click.option(
    "--arch",
    metavar="NAME|FACTORY",
    help="A known architecture, or your own: file.py:factory.  [default: one that suits the data]",
)
@click.option("--from", "start", default="", metavar="MODEL", help="Go on from this model, not from fresh weights.")
@click.option("--epochs", type=click.FloatRange(min=0, min_open=True), help="Instead of --set steps=...")
@click.option(
    "--seed", type=click.IntRange(0, api.SEEDS - 1), default=0, show_default=True, help="Of weights, order and noise."
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a number of the recipe; repeatable."
)
@click.option("--out", type=click.Path(path_type=Path), help="Where the model goes, without suffix.")
@click.option("--half", is_flag=True, help="Keep the weights as float16: half the file.")
@click.option(
    "--compile/--no-compile",
    "compiled",
    default=None,
    help="Let torch.compile make the network's passes faster.  [default: on a GPU, where the recipe can be]",
)
@click.option(
    "--validation",
    type=click.IntRange(min=0),
    metavar="N",
    help="Keep N training images out, and show how the model does on them; 0 for none.  [default: 200, fewer of "
    "small data]",
)
@click.option(
    "--precision",
    default="float32",
    show_default=True,
    help="Of the network's products in training: float32, or bfloat16 where the machine has it.",
)
@click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Go on from where it was stopped; or from the start, in place of what is there.",
)
@click.option("--protocol", metavar="NAME|FILE.toml", help="To measure it by.  [default: the data set's]")
@click.option("--no-evaluation", is_flag=True, help="Leave it unmeasured.")
@machine_options
def command(
    recipe: str,
    data: str,
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
    device: str,
    quiet: bool,
) -> int:
    """Train a model by a recipe, write its weights and card, then evaluate it.

    Stopped anywhere, the same command goes on from where it was. `robench list recipes` names the recipes,
    docs/recipes.md their settings.

    \b
    robench train nat --data digits
    robench train pgd_at --data mnist --threat linf:0.3 --out my-mnist
    robench train pgd_at --data digits --threat l2:2 --set inner_steps=20 --epochs 50
    robench train max --data mnist --threat linf:0.3 --threat l2:2 --threat l1:10 --validation 1000
    robench train eat --data mnist --threat linf:0.3 --threat l1:10 --from my-mnist.safetensors --out tuned
    robench train pgd_at --data my.npz --threat linf:0.1 --arch 'net.py:build(depth=20)' --out mine
    """
    if datasets.is_folder(data):
        raise UserError(f"train does not read folders of images such as {data}; put them into an .npz file")
    undivided = datasets.is_undivided(data)
    split = datasets.load(f"{data}:{datasets.REST}" if undivided else data, "train")
    values = _settings(settings)
    held = usual_validation(len(split)) if validation is None else validation
    name = datasets.title(data)
    configured = configure(recipe, name, values)
    if epochs is not None:
        if "steps" in values:
            raise UserError("--epochs and --set steps=... both say how long to train; give one of them")
        if not isfinite(epochs):
            raise UserError(f"--epochs {epochs} never ends; give a number, like --epochs 10")
        images = epochs * (len(split) - held)
        configured = configure(recipe, name, {**values, "steps": max(1, round(images / configured.batch))})
    against = tuple(map(threats.parse, threat_texts))
    configured.check(against)
    picked = api.pick_device(device)
    order = Order(
        recipe=configured,
        threats=against,
        data=f"{data}:{datasets.HELD_OUT}" if undivided else data,
        architecture=arch or default_architecture(name),
        seed=seed,
        out=out or Path("-".join([name, recipe, *(t.name for t in against)])),
        command=shlex.join(["robench", *sys.argv[1:]]),
        half=half,
        validation=held,
        precision=precision,
        start=start,
        commit=api.commit(picked),
        hardware=api.hardware(picked),
        compiled=picked.type == "cuda" and not configured.twice_differentiated if compiled is None else compiled,
        restarted=not resume,
    )
    if undivided and not quiet:
        click.echo(
            f"note: {data} has no test part, so the model is trained on {len(split)} of its images, and measured on the"
            f" others ({order.data})",
            err=True,
        )
    there = order.card.stat().st_mtime_ns if order.card.exists() else None
    signal.signal(signal.SIGTERM, interrupt)
    display = TrainingDisplay(quiet, configured.batch)
    try:
        card = make(order, split, picked, display, display.looked)
    except KeyboardInterrupt:
        if order.state.exists():
            echo(f"\nstopped; {order.state} holds how far it was: type the same command again to go on", err=True)
        else:
            echo("\nstopped before the first step; type the same command again to begin", err=True)
        return 130
    done = "are there already" if there == order.card.stat().st_mtime_ns else "are written"
    echo(f"{order.weights} and {order.card} {done} ({card.minutes} minutes)", err=True)
    if no_evaluation:
        return 0
    ask = EvalRequest(data=None, protocol=protocol)
    # Only what is typed names code: the card does not.
    subject = ModelSource(str(order.weights), arch=order.architecture if order.factory else None, device=picked)
    answer = ask_about(subject, ask, None, None, quiet)
    refuse_unmeasured(answer.summary)
    echo(render([answer.summary], intervals=True), nl=False)
    if answer.finished:
        api.write_measured(order.card, answer.summary)
    return 0 if answer.finished else 130


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
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, {"true": True, "false": False}.get(value.lower(), value)
