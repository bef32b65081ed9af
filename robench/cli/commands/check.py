"""`robench check`: its options and its help."""

from pathlib import Path
from typing import Any

import click

from .. import existing
from ..options import data_options, machine_options, model_options, precision_option


@click.command("check")
@click.argument("checkpoint")
@click.option(
    "--baseline",
    "baseline_path",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A summary that robench evaluate --json wrote, or a run file.",
)
@click.option(
    "--max-drop",
    "max_drops",
    multiple=True,
    metavar="[ROW=]POINTS",
    help="Allowed drop, as union=1pp, linf:0.3=2pp, clean=0.5pp, or 1pp in every row; repeatable.  [default: 1pp]",
)
@click.option("--until-decided", is_flag=True, help="Continue with further examples while undecided.")
@click.option(
    "--baseline-model",
    metavar="CHECKPOINT",
    help="The baseline's model, for further examples.  [default: the one it names]",
)
@click.option(
    "--baseline-arch", metavar="NAME|FACTORY", help="Architecture of that model.  [default: the one it names]"
)
@click.option(
    "--attack",
    "attacks",
    multiple=True,
    metavar="FILE.py:CLASS",
    help="Run the code of this attack of your own, which the baseline used; repeatable.",
)
@data_options("those of the baseline, prepared as they were")
@model_options
@click.option(
    "--run", "run_path", type=click.Path(path_type=Path), help="Run file for the evidence.  [default: in runs/]"
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the model's summary to this file.")
@click.option(
    "--junit", "junit_path", type=click.Path(path_type=Path), help="Write the verdicts to this file as JUnit XML."
)
@click.option("--github", is_flag=True, help="On GitHub: annotate, and add the comment to the step summary.")
@click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), help="Time limit; the same command continues the run."
)
@precision_option
@machine_options
def command(**options: Any) -> int:
    """Fail when a model is less robust than a baseline.

    Evaluates CHECKPOINT as the baseline was evaluated, on the same examples, and prints a comment for a pull
    request. Exit 0: no regression; 1: regression; 2: could not be measured; 3: undecided.

    \b
    robench evaluate digits-adv-linf --json baseline.json
    robench check model.safetensors --baseline baseline.json
    robench check model.pt --baseline baseline.json --max-drop union=1pp --max-drop clean=0.5pp
    """
    existing.refuse_missing(options)
    from ..check import run

    return run(**options)
