"""`robench evaluate`: its options and its help."""

from pathlib import Path
from typing import Any

import click

from .. import existing
from ..options import data_options, machine_options, model_options, precision_option, question_options


@click.command("evaluate")
@click.argument("checkpoint")
@data_options("those of the model's card")
@question_options
@model_options
@click.option(
    "--run", "run_path", type=click.Path(path_type=Path), help="Run file for the evidence.  [default: in runs/]"
)
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="Also write the summary to this file; - is stdout."
)
@click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), help="Time limit; the same command continues the run."
)
@click.option(
    "--shard", metavar="I/N", help="Search the I-th of N parts of the examples; robench merge joins their run files."
)
@click.option("--workers", type=int, metavar="N", help="Search in N processes of this machine.")
@click.option("--ray", metavar="ADDRESS", help="Search in N actors of this Ray cluster.")
@click.option(
    "--ray-gpus", type=float, metavar="SHARE", help="GPU of each actor: 0.5 lets two share one.  [default: 0]"
)
@click.option("--breakdown", is_flag=True, help="Add a table of the attacks.")
@click.option(
    "--masking",
    default="auto",
    show_default=True,
    metavar="auto|off|on|deep",
    help="Check for gradient masking; auto checks where there is a sign of it.",
)
@precision_option
@machine_options
def command(**options: Any) -> int:
    """Measure how much accuracy a model keeps under attack.

    CHECKPOINT is a file (.safetensors, .pt, .pth, TorchScript), the name of a bundled model, or a published one
    (hf:USER/REPO, timm:NAME, torchvision:NAME, robustbench:DATASET/THREAT/NAME). The evidence is kept in a run file:
    after an interruption, the same command finishes the rest.

    \b
    robench evaluate digits-adv-linf
    robench evaluate model.pt --data mnist --threat linf:0.3 --threat l2:2 --examples 1000
    robench evaluate model.pt --data my.npz --arch my_model.py:build --normalise 0.5/0.5
    robench evaluate model.pt --data imagenet/val --resize 256 --crop 224 --labels imagenet_class_index.json
    robench evaluate hf:timm/resnet18.a1_in1k --data imagenet/val --resize 235 --crop 224 --labels map.json
    robench evaluate digits-nat --attack 'pgd(steps=200, restarts=10)'
    robench evaluate model.pt --data mnist --threat linf:0.1 --attack 'my_attack.py:MyAttack(steps=50)'
    robench evaluate model.pt --data mnist --masking on
    robench evaluate model.pt --data mnist --shard 3/8
    """
    existing.refuse_missing(options)
    from ..evaluate import run

    return run(**options)
