"""`robench inspect`: its options and its help."""

from typing import Any

import click

from .. import existing
from ..options import data_options, debug_option, model_options


@click.command("inspect")
@click.argument("checkpoint", metavar="MODEL")
@data_options("those of the model's card, if it has one")
@model_options
@click.option("--tensors", is_flag=True, help="List every tensor with its shape and type.")
@debug_option
def command(**options: Any) -> int:
    """Show what a checkpoint holds, what robench recognises in it, and what to type.

    Nothing is attacked. The file is read as evaluate reads it: code in it does not run without --trust-pickle. With
    --data the network is built for these images, and its accuracy on some of them is shown: a first test of
    architecture and normalisation. Exit 0 if the model can be evaluated, 1 if something has to be named first.

    \b
    robench inspect model.pt
    robench inspect model.pt --data cifar10
    robench inspect hf:timm/resnet18.a1_in1k
    robench inspect model.safetensors --data mnist --arch net.py:Net
    robench inspect big.ckpt --tensors
    """
    existing.refuse_missing(options)
    from ..inspect import run

    return run(**options)
