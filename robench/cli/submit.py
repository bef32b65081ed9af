"""`robench submit`: a folder that challenges a number of a leaderboard, or adds a model to it."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ..errors import UserError, counted
from ..evaluation import acceptance
from ..evaluation.acceptance import Verified
from ..evaluation.environment import date, pick_device
from ..evaluation.progress import Silence
from ..evaluation.recorded import recorded_plan
from ..evidence.store import RunFile
from ..leaderboard import submissions
from ..leaderboard.submissions import CARD, MAX_BYTES, RUN, STATEMENT, Submission, is_address
from ..problem import durable
from ..problem.checkpoints.cards import read_card
from ..problem.checkpoints.zoo import zoo_card, zoo_names
from ..problem.missing import missing
from ..problem.names import shown
from ..results.merging import merge
from .leaderboard import board_with
from .merge import shareable
from .submissions import SubmissionOptions, report
from .terminal import echo, one_line

PRIVATE = ("checkpoint", "arch", "weights", "normalise", "labels", "data")  # only the sender's machine has these places


def run(
    run_path: Path,
    name: str,
    by: str,
    weights: str | None,
    sha256: str | None,
    card: Path | None,
    note: str,
    link: str,
    board: tuple[Path, ...],
    search: int,
    out: Path,
    device: str,
    quiet: bool,
) -> int:
    """Runs the command; commands/submit.py documents its options."""
    submissions.check_name(name)
    if os.path.lexists(out / name):
        raise UserError(f"{out / name} exists already; choose another --name")
    if os.path.lexists(out) and not out.is_dir():
        raise UserError(f"{out} is no folder; name one with --out")
    model, held = _weights(run_path, weights, sha256, card)
    # Made now, so that an invalid text is refused before minutes of work.
    statement = Submission(name=name, by=by, model=model, run_sha256="0" * 64, link=link, note=note, **held)
    with tempfile.TemporaryDirectory(prefix="robench-") as root:
        folder = Path(root) / name
        folder.mkdir()
        _copied(run_path, folder / RUN, model)
        if card is not None:
            (folder / CARD).write_bytes(durable.read(card, MAX_BYTES[CARD]))
        statement = msgspec.structs.replace(statement, run_sha256=durable.sha256(folder / RUN))
        (folder / STATEMENT).write_bytes(statement.to_toml())
        submissions.read(folder)
        files = (Path(weights),) if weights is not None and not is_address(weights) else ()
        options = SubmissionOptions(Path(root), files, search, None, None, device)
        if board:
            _accept(options, board, name)
        else:
            _verify(options, folder, statement)
        _place(folder, out)
    if not quiet:
        echo(one_line(f"{out / name} is complete; send the folder to the maintainer of the board"), err=True)
    return 0


def _weights(run_path: Path, weights: str | None, sha256: str | None, card: Path | None) -> tuple[str, dict[str, str]]:
    """The name of the model, and what the statement has on its weights. Raises UserError where they are not known."""
    address = ""
    if weights is None:
        with RunFile.read(run_path) as run:
            name = recorded_plan(run, hint="there is nothing to submit").model.name
        if name not in zoo_names():
            raise UserError(
                f"{run_path} is about {name!a}, which is no bundled model; name its weights with --weights, and its"
                " card with --card"
            )
        found = read_card(zoo_card(name)).sha256.lower()
    elif "://" in weights:
        if not is_address(weights):
            raise UserError(f"{weights!a} is no address of a file that begins with https://; name another, or a file")
        if sha256 is None:
            raise UserError("the weights at an address are known by their hash; add --sha256")
        address, found = weights, sha256.lower()
    else:
        if not Path(weights).is_file():
            raise missing("weights", weights)
        found = durable.sha256(Path(weights))
    if sha256 is not None and sha256.lower() != found:
        raise UserError(f"the hash of the weights is {found}, not {sha256!a}; leave --sha256 out, or name their file")
    bundled = acceptance.bundled(found)
    if bundled is not None:
        if card is not None:
            raise UserError(f"the card of the bundled model {bundled.stem} is known; leave --card out")
        return bundled.stem, {"weights": "", "weights_sha256": found}
    if card is None:
        raise UserError("these weights are those of no bundled model; name the card of the model with --card")
    architecture = read_card(card).architecture
    if ".py:" in architecture:
        raise UserError(
            f"the card {card} names the architecture {shown(architecture)!r}, which is code, and a board runs none;"
            " submit the model as TorchScript, saved with torch.jit.trace(...).save(...), and a run on that file"
        )
    return read_card(card).name, {"weights": address, "weights_sha256": found}


def _copied(run_path: Path, to: Path, model: str) -> None:
    """Writes what the run file holds, without folders of this machine, and with this name of its model.

    Raises UserError if it holds no images.
    """
    with RunFile.read(run_path) as run:
        plan, evidence = recorded_plan(run, hint="there is nothing to submit"), run.evidence()
        if any(v.accepted for v in evidence.verdicts) and not run.image_count():
            raise UserError(f"{run_path} is slim: it holds no images, so nothing can be verified; name the whole run")
        submissions.check_texts(evidence)
        merged = merge([evidence])
        environment = {k: text for k, text in shareable(evidence.environment).items() if k not in PRIVATE}
        environment.setdefault("date", date())
        with RunFile.whole(to) as copy, copy.writing():
            put = msgspec.structs.replace
            copy.put_plan(put(plan, model=put(plan.model, name=model)), environment)
            copy.adopt(merged.evidence, merged.sources, [run])


def _accept(options: SubmissionOptions, board: Sequence[Path], name: str) -> None:
    """Accepts the submission as a maintainer does, and prints what it changes. Raises UserError if it is refused."""
    judged, found = board_with(board, options)
    if name in judged.refused:
        raise UserError(f"the board would refuse this: {judged.refused[name]}")
    report(judged, found)


def _verify(options: SubmissionOptions, folder: Path, statement: Submission) -> None:
    """Verifies the submission as far as that is possible without the board. Raises UserError if it does not hold."""
    sha256 = statement.weights_sha256
    device = pick_device(options.device)
    tested = ""
    if (bundled := acceptance.bundled(sha256)) is not None:
        run = acceptance.verified(folder / RUN, statement.run_sha256, bundled, device)
    else:
        with acceptance.beside_card(folder / CARD, sha256, options.weights, statement.weights) as card:
            run = acceptance.verified(folder / RUN, statement.run_sha256, card, device)
            tested = _tested(run, options.search)
    echo(f"verified: {counted(len(run.shown), 'image')} that broke an example{tested}")


def _tested(run: Verified, n: int) -> str:
    """Tests the standing examples of a model that may be new to the board."""
    if not n:
        return ""
    found = acceptance.search_again(run, run.evidence, n, secrets.randbelow(2**32), Silence())
    return f"; {found.searched} standing examples searched again, {found.examples_broken} broken"


def _place(folder: Path, out: Path) -> None:
    """Moves the folder to its place, whole or not at all."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=out))
        try:
            for path in sorted(folder.iterdir()):
                shutil.copyfile(path, part / path.name)
            os.chmod(part, 0o755)
            os.rename(part, out / folder.name)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"{out / folder.name} cannot be written: {why}; name another --out") from None
