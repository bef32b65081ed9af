"""The command `robench`: its subcommands, and how errors are shown."""

import errno
import importlib
import sys
import traceback
from difflib import get_close_matches
from typing import Any

import click

from .. import __version__
from ..errors import ProgramEnded, UserError
from . import output
from .ranks import refuse_copies
from .terminal import one_line, shortened

COMMANDS = {
    "evaluate": "Measure how much accuracy a model keeps under attack.",
    "plan": "Print the commands of a suite of evaluations, in shards, for a shell or for Slurm.",
    "inspect": "Show what a checkpoint holds, what is recognised in it, and what to type.",
    "train": "Train a model by a recipe, then evaluate it.",
    "reproduce": "Make a table of a paper: train, evaluate, and print it beside the published numbers.",
    "report": "Print tables of run files.",
    "leaderboard": "Build a site that compares models, from run files.",
    "figures": "Draw pictures of run files.",
    "export": "Write the adversarial images of a run file, or its rows, for other programs.",
    "verify": "Verify the evidence of a run file.",
    "claim": "Let the referee judge adversarial images of any origin, and keep them as evidence.",
    "submit": "Prepare a submission to a leaderboard: evidence against a number, or a new model.",
    "check": "Fail when a model is less robust than a baseline: the gate for CI.",
    "merge": "Merge several run files of one model.",
    "doctor": "List installed attack libraries, and check whether attacks find what is known to be there.",
    "show": "Show one attack, threat, protocol, recipe, data set, model or architecture in full.",
    "list": "List attacks, threats, protocols, recipes, data, models or architectures.",
}


class Commands(click.Group):
    """The commands of the package `commands`, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".commands.{cmd_name}", __package__)
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
            raise click.UsageError(f"there is no command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="robench")
def robench() -> None:
    """Measure how robust an image classifier really is, against more than one kind of attack.

    \b
    robench evaluate digits-adv-linf          a bundled model on embedded data
    robench evaluate model.pt --data mnist    your own checkpoint
    robench COMMAND --help                    the options of a command
    """


def main() -> None:
    """Runs a command. Invalid input exits with code 2 and one line; --debug shows the traceback."""
    debug = "--debug" in sys.argv
    output.use()
    try:
        args = [a for a in sys.argv[1:] if a != "--debug"]
        refuse_copies(args)
        code = robench.main(args or ["--help"], prog_name="robench", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except (UserError, ProgramEnded) as error:
        _fail(str(error), debug)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context is not None else ""
        _fail(error.format_message() + _repeated(error, args) + hint, debug)
    except (KeyboardInterrupt, click.Abort):
        click.echo("stopped", err=True)
        sys.exit(130)
    except SystemExit as error:  # no command exits by it: the code of a model, a data set or an attack has
        _fail(f"the code of the model, the data or an attack ended Python: sys.exit({error.code!r})", debug)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            _fail(f"{str(error.filename)[:40]!a}... is too long for the name of a file; name another", debug)
        if debug:
            raise
        from ..problem.memory import out_of_memory  # imports torch

        if out_of_memory(error):
            _fail("there is too little memory for this; name fewer or smaller images, or use a larger machine", debug)
        _fail(f"robench failed with {type(error).__name__}: {error}; this is a bug, --debug shows where", debug)
    else:
        sys.exit(code if isinstance(code, int) else 0)


def _repeated(error: click.ClickException, args: list[str]) -> str:
    """What to type if a word is left over because an option, which takes one value, was given several."""
    context = getattr(error, "ctx", None)
    if context is None or not error.format_message().startswith("Got unexpected extra argument"):
        return ""
    for option in context.command.params:
        for name in option.opts:
            if getattr(option, "multiple", False) and name in args:
                return f"; give {name} once for each value, as {name} ONE {name} OTHER"
    return ""


def _fail(message: str, debug: bool) -> Any:
    if debug:
        traceback.print_exc()
    click.echo(one_line(shortened(f"Error: {message}")), err=True)
    sys.exit(2)
