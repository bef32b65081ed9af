"""`robench train`: its options and its help."""

from typing import Any

import click

from .. import existing
from ..options import NamedModel, machine_options


@click.command("train")
@click.argument("recipe")
@click.option(
    "--data",
    default="digits",
    show_default=True,
    metavar="NAME|FILE.npz",
    help="The training images. Those of a test part, such as digits:test, are refused.",
)
@click.option(
    "--pseudo-labelled",
    metavar="NAME|FILE.npz",
    help="More images, whose labels a model has given: half of every batch.",
)
@click.option(
    "--threat", "threat_texts", multiple=True, metavar="THREAT", help="Train against this threat; repeatable."
)
@click.option(
    "--arch",
    metavar="NAME|FACTORY",
    help="A known architecture, or your own, as file.py:factory.  [default: one that fits the data]",
)
@click.option(
    "--from",
    "start",
    default="",
    metavar="MODEL",
    help="Start from this model, not from random weights.",
)
@click.option(
    "--epochs", type=click.FloatRange(min=0, min_open=True), help="Length of the training, instead of --set steps=..."
)
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Seed of weights, order and noise."
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a setting of the recipe; repeatable."
)
@click.option("--out", type=NamedModel(), help="File to write the model to, without suffix.")
@click.option("--half", is_flag=True, help="Store the weights as float16, in half the space.")
@click.option(
    "--compile/--no-compile",
    "compiled",
    default=None,
    help="Speed up the network with torch.compile.  [default: on a GPU, where the recipe allows it]",
)
@click.option(
    "--validation",
    type=click.IntRange(min=0),
    metavar="N",
    help="Hold N training images out, and show the accuracy on them; 0 for none.  [default: 200, fewer of small data]",
)
@click.option(
    "--precision",
    default="float32",
    show_default=True,
    help="Precision of matrix products in training: float32, or bfloat16 where the device supports it.",
)
@click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Continue an interrupted training; or start again, and replace what exists.",
)
@click.option(
    "--protocol",
    metavar="NAME|FILE.toml",
    help="Protocol of the evaluation.  [default: the data set's]",
)
@click.option("--no-evaluation", is_flag=True, help="Only train.")
@machine_options
def command(**options: Any) -> int:
    """Train a model by a recipe, write its weights and card, then evaluate it.

    After an interruption, the same command continues. `robench list recipes` names the recipes,
    `robench show NAME` lists the settings of one. `torchrun --nproc-per-node N -m robench train ...` trains in N
    processes.

    \b
    robench train nat --data digits
    robench train pgd_at --data mnist --threat linf:0.3 --out my-mnist
    robench train pgd_at --data digits --threat l2:2 --set inner_steps=20 --epochs 50
    robench train max --data mnist --threat linf:0.3 --threat l2:2 --threat l1:10 --validation 1000
    robench train rst --data cifar10 --pseudo-labelled more.npz --threat linf:8/255
    robench train eat --data mnist --threat linf:0.3 --threat l1:10 --from my-mnist.safetensors --out tuned
    robench train pgd_at --data my.npz --threat linf:0.1 --arch 'net.py:build(depth=20)' --out mine
    """
    existing.refuse_missing(options)
    from ..train import run

    return run(**options)
