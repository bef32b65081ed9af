"""The kinds of inputs: how each is mutated, and the command that reads it.

Every function gets the folder with the valid files, the working folder of the command, and the random numbers of the
input; it writes what the command reads, and returns the words of the command.
"""

import dataclasses
import io
import json
import shutil
import sqlite3
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np

from robench.cli.site_folder import MANIFEST, SCHEMA
from robench.evidence.store import RunFile
from robench.recipes import RECIPES
from robench.search.attacks import ATTACKS

from .changes import STRANGE, as_json, as_toml, changed, changed_bytes, changed_text, changed_value

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BRIEF = ["--quiet", "--precision", "float32", "--run", "new.robench"]
QUICK = [*BRIEF, "--minutes", "0.002"]
FORMS = ["markdown", "latex", "csv", "json", "html"]
PROTOCOL = {
    "name": "tiny",
    "description": "Two threats",
    "data": "digits",
    "examples": 6,
    "seed": 1,
    "eot": 1,
    "threat": [
        {
            "threat": "linf:0.1",
            "attacks": [
                {"attack": "pgd", "label": "quick", "steps": 2, "random_start": False},
                {"attack": "apgd", "steps": 3, "loss": "dlr", "restarts": 2},
                {"attack": "square", "steps": 4, "near": 0.5},
                {"attack": "fab", "steps": 2, "sample": 3},
            ],
        },
        {"threat": "l2:1", "attacks": [{"attack": "fmn", "steps": 3}, {"attack": "cw", "steps": 3}]},
        {"threat": "rt:1px,10deg", "attacks": [{"attack": "grid", "translations": 3, "rotations": 3}]},
    ],
}
THREATS = [
    *("linf:8/255", "l2:0.5", "l1:5", "l0:3", "rt:1px,10deg", "rt:1px,5deg,pad2"),
    *("affine:linf:0.1,l2:1", "affine:rt:1px,5deg"),
]


def run_file(valid: Path, folder: Path, random: Random) -> list[str]:
    """A run file, with changed bytes, rows, columns, or a changed plan."""
    path = folder / "r.robench"
    source = valid / random.choice(["lp.robench", "rt.robench"])
    if random.random() < 0.25:
        path.write_bytes(changed_bytes(source.read_bytes(), random))
    else:
        shutil.copy(source, path)
        for _ in range(random.choice([1, 1, 1, 2, 3])):
            _alter(path, random)
    again = [
        "verify r.robench --quiet",
        "merge r.robench --out m.robench",
        "merge r.robench good.robench --out m.robench",
    ]
    again += [
        "export r.robench --out rows.csv",
        "export r.robench --out adv.npz --quiet",
        "figures r.robench --out d --kind gallery",
    ]
    again += ["figures r.robench --out d --kind queries --kind curve", "leaderboard r.robench --json d --no-runs"]
    again += ["check digits-nat --baseline r.robench --quiet --minutes 0.002 --run new.robench"]
    again += ["evaluate digits-nat --protocol tiny.toml --minutes 0.002 --quiet --run r.robench"]
    if random.random() < 0.6:
        return _report("r.robench", random)
    command = random.choice(again)
    if "good" in command:
        shutil.copy(source, folder / "good.robench")
    if "tiny" in command:
        (folder / "tiny.toml").write_bytes(as_toml(PROTOCOL))
    return command.split()


def _alter(path: Path, random: Random) -> None:
    """One change of a run file through SQLite; what SQLite refuses is no change."""
    db = sqlite3.connect(path, isolation_level=None)
    try:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        if random.random() < 0.3:
            db.execute("UPDATE plan SET json = ?", [_text(changed(_plan(db), random), random)])
            return
        table = random.choice(tables)
        columns = [row[1] for row in db.execute(f'PRAGMA table_info("{table}")')]
        rows = db.execute(f'SELECT * FROM "{table}"').fetchall()
        if not rows:
            return
        row = list(random.choice(rows))
        where, column = " AND ".join(f'"{c}" IS ?' for c in columns), random.randrange(len(columns))
        match random.randrange(8):
            case 0:
                db.execute(f'DELETE FROM "{table}" WHERE {where}', row)
            case 1:
                db.execute(f'UPDATE "{table}" SET "{columns[column]}" = ?', [_sql(row[column], random)])
            case 2:
                new = [*row]
                new[column] = _sql(row[column], random)
                db.execute(f'INSERT INTO "{table}" VALUES ({", ".join("?" * len(row))})', new)
            case 3 if random.random() < 0.3:
                db.execute(random.choice(_SCHEMA_CHANGES).format(table=table, column=columns[0]))
            case _:
                change = f'UPDATE "{table}" SET "{columns[column]}" = ? WHERE {where}'
                db.execute(change, [_sql(row[column], random), *row])
    except (sqlite3.Error, OverflowError, UnicodeError):
        pass
    finally:
        db.close()


_SCHEMA_CHANGES = [
    "DROP TABLE {table}",
    "ALTER TABLE {table} ADD COLUMN more TEXT",
    "CREATE TABLE more (x)",
    "CREATE VIEW more AS SELECT * FROM {table}",
    "CREATE INDEX more ON {table} ({column})",
    "CREATE TRIGGER more AFTER INSERT ON {table} BEGIN DELETE FROM plan; END",
    "PRAGMA user_version = 7",
    "PRAGMA application_id = 7",
]


def _plan(db: sqlite3.Connection) -> object:
    try:
        return json.loads(db.execute("SELECT json FROM plan").fetchone()[0])
    except (TypeError, ValueError):
        return {}


def _text(value: object, random: Random) -> object:
    text = json.dumps(value)
    return changed_text(text, random) if random.random() < 0.1 else text


def _sql(value: object, random: Random) -> object:
    """A value that SQLite can hold, in this place."""
    if isinstance(value, bytes) and random.random() < 0.7:
        return changed_bytes(value, random)
    new = changed_value(value, random)
    if isinstance(new, int) and not -(2**63) <= new < 2**63:
        return float(new) if abs(new) < 10**300 else str(new)
    return json.dumps(new) if isinstance(new, list | dict) else new


def summary(valid: Path, folder: Path, random: Random) -> list[str]:
    """A summary file."""
    held = (valid / random.choice(["lp.json", "rt.json"])).read_bytes()
    if random.random() < 0.25:
        text = changed_bytes(held, random)
    else:
        value = changed(json.loads(held), random)
        text = as_json([value, json.loads(held)] if random.random() < 0.05 else value)
    (folder / "s.json").write_bytes(text)
    if random.random() < 0.25:
        return ["check", "digits-nat", "--baseline", "s.json", "--quiet", "--minutes", "0.002", "--run", "new.robench"]
    return _report("s.json", random)


def _report(name: str, random: Random) -> list[str]:
    form = random.choice(FORMS)
    more = [] if form == "csv" else ["--breakdown", "--masking", "--together", "--intervals"]
    return ["report", name, "--format", form, *more]


def protocol(valid: Path, folder: Path, random: Random) -> list[str]:
    """A protocol file, with changed bytes or values."""
    text = as_toml(changed(PROTOCOL, random))
    (folder / "p.toml").write_bytes(changed_bytes(text, random) if random.random() < 0.25 else text)
    return ["evaluate", "digits-nat", "--protocol", "p.toml", *QUICK]


def card(valid: Path, folder: Path, random: Random) -> list[str]:
    """A model's card, beside its weights."""
    held = (valid / "digits-nat.toml").read_bytes()
    table = changed(tomllib.loads(held.decode()), random)
    (folder / "digits-nat.toml").write_bytes(changed_bytes(held, random) if random.random() < 0.25 else as_toml(table))
    shutil.copy(valid / "digits-nat.safetensors", folder)
    shutil.copy(valid / "lp.robench", folder / "r.robench")
    shared = ["--card", "digits-nat.toml"]
    return random.choice(
        [
            ["evaluate", "digits-nat.toml", "--examples", "2", *QUICK],
            ["report", "r.robench", "--claimed", *shared],
            ["leaderboard", "r.robench", "--json", "d", "--no-runs", *shared],
        ]
    )


def arrays(valid: Path, folder: Path, random: Random) -> list[str]:
    """Images, labels, claims or weights in an `.npz` file."""
    name = random.choice(["images.npz", "images.npz", "claims.npz", "weights.npz"])
    held = (valid / name).read_bytes()
    path = folder / name
    if random.random() < 0.3:
        path.write_bytes(changed_bytes(held, random))
    else:
        with np.load(valid / name) as archive:
            found = {key: archive[key] for key in archive.files}
        key = random.choice(list(found))
        if random.random() < 0.6:
            found[key] = _array(found[key], random)
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **found)
            path.write_bytes(buffer.getvalue())
        else:
            path.write_bytes(_archive(found, key, random))
    if name == "claims.npz":
        return ["claim", "digits-nat", name, "--threat", "linf:0.2", "--run", "new.robench", "--quiet"]
    attack = ["--threat", "linf:0.1", "--attack", "pgd(steps=1)", *QUICK]
    if name == "weights.npz":
        return ["evaluate", name, "--data", "digits", "--examples", "2", *attack]
    return ["evaluate", "digits-nat", "--data", name, "--examples", "2", *attack]


def _array(array: np.ndarray, random: Random) -> np.ndarray:
    """The array with another type, shape or values."""
    types = [
        "u1",
        "i1",
        "i8",
        "u8",
        "f2",
        "f4",
        "f8",
        "g",
        "c8",
        "?",
        "U5",
        "S3",
        "M8[s]",
        "m8[s]",
        ">f4",
        ">i8",
        "V4",
        "O",
    ]
    match random.randrange(4):
        case 0:
            try:
                return array.astype(random.choice(types))
            except (TypeError, ValueError):
                return array.astype("O")
        case 1:
            shape = random.choice(
                [(), (0,), (1,), (5, 8), array.shape[:1], (*array.shape, 1), array.shape[::-1], (0, 1, 8, 8)]
            )
            return np.resize(array, shape)
        case 2:
            strange = [s for s in STRANGE if isinstance(s, int | float)]
            try:
                wide = array.astype(random.choice([array.dtype, "f8", "O", "u8"]))
                wide.reshape(-1)[random.randrange(wide.size)] = random.choice(strange)
            except (ValueError, OverflowError, TypeError):
                wide = np.array([str(random.choice(strange))] * len(array) if array.ndim else "x")
            return wide
        case _:
            return array[: random.choice([0, 1, 3])] if array.ndim else np.array([array, array])


def _archive(arrays: dict[str, np.ndarray], key: str, random: Random) -> bytes:
    """A zip file whose member `key` has a changed header, or forged sizes, or is not alone."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.save(member, array, allow_pickle=True)
            data = member.getvalue()
            if name == key:
                data = _member(data, archive, random)
            archive.writestr(f"{name}.npy", data)
        info = archive.infolist()[-1]
        for _ in range(random.choice([0, 0, 1])):
            field = random.choice(["file_size", "compress_size", "CRC", "flag_bits", "compress_type", "header_offset"])
            setattr(
                info,
                field,
                random.choice([0, 1, 2**31, 2**32 - 1, 2**40]) if field.endswith("size") else random.randrange(99),
            )
    return buffer.getvalue()


def _member(data: bytes, archive: zipfile.ZipFile, random: Random) -> bytes:
    length = int.from_bytes(data[8:10], "little")
    head, body = data[10 : 10 + length].decode("latin-1"), data[10 + length :]
    match random.randrange(5):
        case 0:  # another header, of the right length
            head = changed_text(head.rstrip(), random)
        case 1:
            shape = head[head.index("(") : head.index(")") + 1]
            many = [
                "(99999999999,)",
                "(-1,)",
                "(2, -3)",
                "(1,1,1,1,1,1)",
                "(0, 99999999)",
                "(1e3,)",
                "('x',)",
                "(10**99,)",
            ]
            head = head.replace(shape, random.choice([*many, "(" + "9" * 400 + ",)", "(" * 900 + ")" * 900]))
        case 2:
            kind = head.split("'")[3]
            head = head.replace(
                kind, random.choice(["|O", "<c16", "<U9", "|V8", "<f16", ">f8", "<M8[ns]", "<f99", "O", "x", "<i8,<i8"])
            )
        case 3:
            body = bytes(random.choice([2**20, 2**27])) if random.random() < 0.3 else body[: len(body) // 2]
        case _:
            archive.writestr(
                random.choice(["x.npy", "../x.npy", "x", "more.txt", "\x1b[2J.npy"]),
                random.choice([b"", data, b"x" * 99]),
            )
    new = head.encode("latin-1", "replace")
    return data[:8] + (len(new) % 2**16).to_bytes(2, "little") + new + body


def weights(valid: Path, folder: Path, random: Random) -> list[str]:
    """A checkpoint: safetensors with a changed header, or a file of `torch.save` with changed bytes."""
    if random.random() < 0.5:
        held = (valid / "digits-nat.safetensors").read_bytes()
        length = int.from_bytes(held[:8], "little")
        header = as_json(changed(json.loads(held[8 : 8 + length]), random))
        data = len(header).to_bytes(8, "little") + header + held[8 + length :]
        name = "w.safetensors"
        if random.random() < 0.4:
            data = changed_bytes(held, random)
    else:
        name = "w.pt"
        data = changed_bytes((valid / "digits-nat.pt").read_bytes(), random)
    (folder / name).write_bytes(data)
    attack = ["--threat", "linf:0.1", "--attack", "pgd(steps=1)"]
    return ["evaluate", name, "--data", "digits", "--examples", "2", *attack, *QUICK]


def threat(valid: Path, folder: Path, random: Random) -> list[str]:
    """The text of a threat model."""
    text = changed_text(random.choice(THREATS), random)
    if random.random() < 0.1:
        return ["train", "nat", "--threat", text, "--set", "steps=1", "--no-evaluation", "--out", "new", "--quiet"]
    return ["evaluate", "digits-nat", "--threat", text, "--examples", "2", *QUICK]


def attack(valid: Path, folder: Path, random: Random) -> list[str]:
    """The text of an attack, with settings."""
    name = random.choice([*ATTACKS, "foolbox:LinfPGD", "foolbox:L2DeepFoolAttack", "autoattack"])
    fields = {field.name: field for field in dataclasses.fields(ATTACKS[name])} if name in ATTACKS else {"steps": None}
    settings = {key: _setting(fields[key], random) for key in random.sample(list(fields), min(len(fields), 2))}
    text = f"{name}({', '.join(f'{key}={value}' for key, value in settings.items())})"
    if random.random() < 0.4:
        text = changed_text(text, random)
    threats = [word for t in random.sample(THREATS, 2) for word in ("--threat", t)]
    norms = getattr(ATTACKS.get(name), "threats", ("linf",))
    fit = next((t for t in THREATS if t.partition(":")[0] in norms), "linf:0.1")
    chosen = ["--threat", fit] if random.random() < 0.9 else threats
    return ["evaluate", "digits-nat", "--attack", text, *chosen, "--examples", "2", *QUICK]


def recipe(valid: Path, folder: Path, random: Random) -> list[str]:
    """Settings of a recipe."""
    name = random.choice(list(RECIPES))
    fields = {field.name: field for field in dataclasses.fields(RECIPES[name])}
    words = ["train", name, "--no-evaluation", "--out", "new", "--quiet"]
    for key in random.sample(list(fields), min(len(fields), random.choice([1, 1, 2]))):
        text = f"{key}={_setting(fields[key], random)}"
        words += ["--set", changed_text(text, random) if random.random() < 0.2 else text]
    if "steps" not in " ".join(words):
        words += ["--set", "steps=3"]
    if name not in ("nat", "rst"):
        words += ["--threat", "rt:1px,10deg" if "spatial" in name else "linf:0.1"]
        words += ["--threat", "l2:1"] if random.random() < 0.5 else []
    return words


def _setting(field: object, random: Random) -> object:
    default = getattr(field, "default", 1)
    plain = default if isinstance(default, bool | int | float | str) else 1
    return changed_value(plain, random) if random.random() < 0.8 else plain


def manifest(valid: Path, folder: Path, random: Random) -> list[str]:
    """The list of files in the folder of a site."""
    (folder / "d").mkdir()
    (folder / "precious.txt").write_text("precious")
    entries = [["index.html", "0" * 64], ["../precious.txt", "0" * 64], ["data/x.json", "1" * 64]]
    held = as_json(changed({"schema": SCHEMA, "files": entries}, random))
    (folder / "d" / MANIFEST).write_bytes(changed_bytes(held, random) if random.random() < 0.3 else held)
    shutil.copy(valid / "lp.robench", folder / "r.robench")
    return ["leaderboard", "r.robench", "--out", "d", "--no-runs", "--images", "0"]


def submission(valid: Path, folder: Path, random: Random) -> list[str]:
    """A submission to a leaderboard: its statement, and its run file."""
    shutil.copytree(valid / "submissions", folder / "submissions")
    shutil.copy(valid / "lp.robench", folder / "board.robench")
    where = next(path for path in (folder / "submissions").iterdir() if path.is_dir())
    statement = where / "submission.toml"
    if random.random() < 0.7:
        table = changed(tomllib.loads(statement.read_text()), random)
        held = changed_bytes(statement.read_bytes(), random) if random.random() < 0.3 else as_toml(table)
        statement.write_bytes(held)
    else:
        _alter(next(where.glob("*.robench")), random)
    return ["leaderboard", "board.robench", "--json", "d", "--submissions", "submissions", "--search", "0"]


KINDS: dict[str, tuple[Callable[[Path, Path, Random], list[str]], int]] = {
    "run file": (run_file, 2900),
    "summary": (summary, 2000),
    "protocol": (protocol, 1400),
    "card": (card, 700),
    "arrays": (arrays, 1000),
    "weights": (weights, 400),
    "threat": (threat, 500),
    "attack": (attack, 600),
    "recipe": (recipe, 350),
    "manifest": (manifest, 50),
    "submission": (submission, 100),
}
"""Every kind with the number of its inputs, 10,000 in all."""


def valid_files(folder: Path, robench: Callable[..., None]) -> None:
    """Write the valid inputs that are mutated; `robench` runs a command that has to succeed."""
    import torch

    from robench.problem import checkpoints, datasets
    from robench.problem.checkpoints.zoo import zoo_card

    (folder / "tiny.toml").write_bytes(as_toml(PROTOCOL))
    quiet = ["--quiet", "--precision", "float32"]
    robench(
        "evaluate",
        "digits-nat",
        "--protocol",
        "tiny.toml",
        "--run",
        "rt.robench",
        "--json",
        "rt.json",
        "--masking",
        "on",
        *quiet,
    )
    lp = [
        "--threat",
        "linf:0.1",
        "--threat",
        "l2:0.5",
        "--attack",
        "pgd(steps=3, restarts=2)",
        "--attack",
        "fmn(steps=4)",
    ]
    robench(
        "evaluate", "digits-nat", *lp, "--curve", "--examples", "12", "--run", "lp.robench", "--json", "lp.json", *quiet
    )
    for suffix in (".toml", ".safetensors"):
        shutil.copy(zoo_card("digits-nat").with_suffix(suffix), folder)
    robench("export", "lp.robench", "--out", "claims.npz", "--quiet")
    split = datasets.load("digits").take(range(12))
    np.savez_compressed(folder / "images.npz", x=split.x.numpy(), y=split.y.numpy(), classes=10)
    state = checkpoints.load("digits-nat").classifier.module.state_dict()
    np.savez(folder / "weights.npz", **{key: value.numpy() for key, value in state.items()})
    torch.save(dict(state), folder / "digits-nat.pt")
    robench("leaderboard", "lp.robench", "--out", "site", "--no-runs", "--images", "0")
    robench("submit", "lp.robench", "--name", "more", "--by", "Ada", "--out", "submissions", "--quiet")
    with RunFile.read(folder / "rt.robench") as run:
        assert run.evidence().claims
