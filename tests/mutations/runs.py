"""Mutated run files and summary files."""

import json
import shutil
import sqlite3
from pathlib import Path
from random import Random

from .changes import as_json, as_toml, changed, changed_bytes, changed_text, changed_value
from .texts import PROTOCOL

FORMS = ["markdown", "latex", "csv", "json", "html"]
COMMANDS = [
    "verify r.robench --quiet",
    "merge r.robench --out m.robench",
    "merge r.robench good.robench --out m.robench",
    "export r.robench --out rows.csv",
    "export r.robench --out adv.npz --quiet",
    "figures r.robench --out d --kind gallery",
    "figures r.robench --out d --kind queries --kind curve",
    "leaderboard r.robench --json d --no-runs",
    "check digits-nat --baseline r.robench --quiet --minutes 0.002 --run new.robench",
    "evaluate digits-nat --protocol tiny.toml --minutes 0.002 --quiet --run r.robench",
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
            alter(path, random)
    if random.random() < 0.6:
        return _report("r.robench", random)
    command = random.choice(COMMANDS)
    if "good" in command:
        shutil.copy(source, folder / "good.robench")
    if "tiny" in command:
        (folder / "tiny.toml").write_bytes(as_toml(PROTOCOL))
    return command.split()


def alter(path: Path, random: Random) -> None:
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
