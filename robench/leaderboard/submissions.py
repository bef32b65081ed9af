"""Submissions: folders in which others send evidence to the board. Read strictly, since a folder may be hostile.

A folder NAME holds submission.toml, run.robench and, for a new model, card.toml; nothing else. What it states counts
only after a verification with the weights, which `evaluation.acceptance` makes.
"""

import json
import os
import re
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec

from ..errors import UserError
from ..evidence.records import Evidence, Plan
from ..results.masking.verdict import findings
from ..results.summarising import NOTE

SCHEMA = "robench.submission/1"
STATEMENT, RUN, CARD = "submission.toml", "run.robench", "card.toml"
MAX_BYTES = {STATEMENT: 2**14, RUN: 2**28, CARD: 2**16}  # of each file
README = "README.md"  # may lie beside the submissions
MAX_NAME, MAX_LINE, MAX_NOTE = 60, 100, 500  # characters
MAX_TEXT, MAX_TEXTS = 10_000, 200  # characters of a free text of a run file, and how many describe the run
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_INVISIBLE = frozenset("\u115f\u1160\u3164\uffa0\u2800")  # letters that show nothing
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ADDRESS = re.compile(r"https://[A-Za-z0-9.-]+(:[0-9]{1,5})?/[A-Za-z0-9._~/%?&=+,-]*")


class Submission(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What submission.toml states. Raises UserError, which names the field, where a text is none of its kind."""

    schema: str = SCHEMA
    name: str  # of the folder
    by: str  # who submits
    model: str  # its name
    run_sha256: str  # of run.robench
    weights_sha256: str  # of the file with the weights
    weights: str = ""  # its address; empty for a bundled model, and where the file is sent otherwise
    link: str = ""  # to a paper or page
    note: str = ""

    def __post_init__(self) -> None:
        check_name(self.name)
        _expect("schema", self.schema, self.schema == SCHEMA, SCHEMA)
        _expect("by", self.by, _is_line(self.by, MAX_LINE), f"a name of 1 to {MAX_LINE} printable characters")
        _expect("model", self.model, _is_line(self.model, MAX_LINE), f"a name of 1 to {MAX_LINE} printable characters")
        _expect("note", self.note, not self.note or _is_line(self.note, MAX_NOTE), f"one line of at most {MAX_NOTE}")
        for field in ("run_sha256", "weights_sha256"):
            text = getattr(self, field)
            _expect(field, text, bool(_SHA256.fullmatch(text)), "64 hexadecimal digits in lower case")
        for field in ("weights", "link"):
            text = getattr(self, field)
            _expect(field, text, not text or is_address(text), "an address that begins with https://")

    def to_toml(self) -> bytes:
        """The file: a line for each field that is not empty."""
        fields = msgspec.to_builtins(self)
        # TOML has the escapes of JSON.
        return "".join(
            f"{key} = {json.dumps(text, ensure_ascii=False)}\n" for key, text in fields.items() if text
        ).encode()


def check_name(name: str) -> str:
    """The name of a submission. Raises UserError if it is no harmless name of a folder."""
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise UserError(
            f"{name[:MAX_NAME]!a} is no name of a submission; a name has 1 to {MAX_NAME} letters a to z, digits and"
            " single hyphens, as in fab-on-digits-sat"
        )
    return name


def is_address(text: str) -> bool:
    """Whether a text is an address of a file on a server with TLS, without user name and fragment."""
    return len(text) <= 500 and bool(_ADDRESS.fullmatch(text))


def _is_line(text: str, longest: int) -> bool:
    return 0 < len(text) <= longest and text.isprintable() and text == text.strip() and _INVISIBLE.isdisjoint(text)


def _expect(field: str, text: str, holds: bool, wanted: str) -> None:
    if not holds:
        raise UserError(f"{field} is {text[:MAX_LINE]!a}; it has to be {wanted}")


def folders(root: Path) -> Iterator[Path]:
    """What the folder of submissions holds but for its README.md, by name. Raises UserError if it is no folder."""
    try:
        if not root.is_dir():
            raise UserError(f"{root} is no folder; name the folder of the submissions")
        found = sorted(root.iterdir())
    except OSError as error:
        raise UserError(f"{root} cannot be read: {error.strerror}") from None
    return (path for path in found if path.name != README or path.is_symlink() or not path.is_file())


def read(folder: Path) -> Submission:
    """The statement of a submission. Raises UserError, in one sentence, if the folder is not exactly of the known form.

    The run file and the card are not opened.
    """
    check_name(folder.name)
    if not stat.S_ISDIR(os.lstat(folder).st_mode):
        raise UserError("it is no folder")
    names = sorted(os.listdir(folder))
    for name in names:
        if name not in MAX_BYTES:
            raise UserError(f"it holds {name[:MAX_LINE]!a}; a submission holds {STATEMENT}, {RUN} and {CARD} alone")
        found = os.lstat(folder / name)
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"its {name} is a link or no file")
        if found.st_size > MAX_BYTES[name]:
            raise UserError(f"its {name} has {found.st_size:,} bytes, and may have {MAX_BYTES[name]:,}")
    if missing := [name for name in (STATEMENT, RUN) if name not in names]:
        raise UserError(f"it has no {missing[0]}")
    try:
        submission = msgspec.toml.decode((folder / STATEMENT).read_bytes(), type=Submission)
    except OSError as error:
        raise UserError(f"its {STATEMENT} cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        if isinstance(error.__cause__, UserError):
            raise UserError(f"in its {STATEMENT} {error.__cause__}") from None
        raise UserError(f"its {STATEMENT} cannot be read: {str(error)!a}") from None
    if submission.name != folder.name:
        raise UserError(f"its {STATEMENT} calls it {submission.name}, and its folder is {folder.name}")
    return submission


def check_texts(evidence: Evidence) -> None:
    """Raises UserError if the run file holds more free text than a page can show."""
    environment = evidence.environment
    texts = [*environment, *environment.values(), *(failure.error for failure in evidence.failures)]
    if len(environment) > MAX_TEXTS:
        raise UserError(f"its run file describes the run in {len(environment):,} texts, and may in {MAX_TEXTS}")
    if (longest := max(map(len, texts), default=0)) > MAX_TEXT:
        raise UserError(f"its run file holds a text of {longest:,} characters, and may hold {MAX_TEXT:,}")


def challenge(plan: Plan, evidence: Evidence, shown: Collection[int], name: str, attack: str) -> tuple[Plan, Evidence]:
    """What counts of a submission about a model that is on the board: the broken examples, and nothing else.

    These are the accepted claims in `shown`, whose images were judged again. No image proves which search found it, so
    each counts as found by `attack`, a claim of images from a file. Without a threat in its plan the run has no row,
    and without exhausted searches nothing stands by it; answers before any attack, costs, failures and measurements of
    masking are left out. The model has the `name` that it has on the board.
    """
    put = msgspec.structs.replace
    judged = [(c, v) for c, v in evidence.judged() if v.accepted and c.id in shown]
    claims = (put(c, attack=attack, restart=0, target=-1, forwards=0, backwards=0) for c, _ in judged)
    environment = {key: text for key, text in evidence.environment.items() if key == "date"}
    return (
        put(plan, model=put(plan.model, name=name), threats=(), seed=0, protocol=""),
        Evidence(claims=tuple(claims), verdicts=tuple(v for _, v in judged), environment=environment),
    )


def new_model(plan: Plan, evidence: Evidence, note: str) -> Evidence:
    """What counts of a submission about a model of its own: its run, with a note on its origin.

    A verdict that no masking was found rests on measurements that nothing here repeats, so these are left out, and the
    threat is untested. Measurements that speak against the model are not.
    """
    flattering = {threat for threat, found in findings(plan, evidence).items() if found.verdict == "none-found"}
    known = ("date", "command", "precision", "randomness")
    environment = {key: text for key, text in evidence.environment.items() if key in known or key.startswith(NOTE)}
    return msgspec.structs.replace(
        evidence,
        probes=tuple(p for p in evidence.probes if p.threat not in flattering),
        masking=tuple(state for state in evidence.masking if state.threat not in flattering),
        environment=environment | {f"{NOTE}submission": note},
    )
