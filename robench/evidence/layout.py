"""The layout of a run file, and a check that a file has it. No other content is trusted before that check."""

import sqlite3
from contextlib import closing
from functools import cache

APPLICATION_ID = 0x726F626E  # "robn": distinguishes run files from other SQLite files
FORMAT = 1
HEADER = 100  # bytes

_SCHEMA = """
CREATE TABLE plan (json TEXT NOT NULL);
CREATE TABLE clean (
    example INTEGER PRIMARY KEY, digest TEXT NOT NULL, correct INTEGER NOT NULL, margin REAL, tied INTEGER NOT NULL);
CREATE TABLE claim (
    id INTEGER PRIMARY KEY, example INTEGER NOT NULL, threat TEXT NOT NULL, attack TEXT NOT NULL,
    draw INTEGER NOT NULL, target INTEGER NOT NULL, witness BLOB, image BLOB, encoding TEXT, sha256 TEXT,
    forwards INTEGER NOT NULL, backwards INTEGER NOT NULL);
CREATE INDEX claim_place ON claim (example, threat);
CREATE TABLE verdict (
    claim INTEGER PRIMARY KEY REFERENCES claim, accepted INTEGER NOT NULL, rejection TEXT NOT NULL,
    reason TEXT NOT NULL, size REAL, margin REAL, passes INTEGER NOT NULL);
CREATE TABLE spent (
    example INTEGER NOT NULL, threat TEXT NOT NULL, attack TEXT NOT NULL, draws INTEGER NOT NULL,
    forwards INTEGER NOT NULL, backwards INTEGER NOT NULL, done BLOB NOT NULL,
    PRIMARY KEY (example, threat, attack)) WITHOUT ROWID;
CREATE TABLE probe (
    threat TEXT NOT NULL, example INTEGER NOT NULL, name TEXT NOT NULL, value REAL,
    PRIMARY KEY (threat, example, name)) WITHOUT ROWID;
CREATE TABLE failure (
    example INTEGER NOT NULL, threat TEXT NOT NULL, attack TEXT NOT NULL, error TEXT NOT NULL,
    PRIMARY KEY (example, threat, attack)) WITHOUT ROWID;
CREATE TABLE effort (
    threat TEXT NOT NULL, attack TEXT NOT NULL, seconds REAL NOT NULL, PRIMARY KEY (threat, attack)) WITHOUT ROWID;
CREATE TABLE environment (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

# Missing in files of the first versions.
_OPTIONAL = frozenset({("index", "claim_place")})

# Steps of SQLite's virtual machine. Reading our schema takes a few hundred; a million tables would take minutes.
STEPS = 100_000

Objects = dict[tuple[str, str], tuple[str, str]]
"""Tables and indexes by kind and name, with the table each belongs to and the statement that created it."""


def lay_out(db: sqlite3.Connection) -> None:
    """Create all tables and the marks that identify a run file, in one transaction."""
    marks = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT};"
    db.executescript(f"BEGIN IMMEDIATE; {marks} {_SCHEMA} COMMIT;")


def is_ours(header: bytes) -> bool:
    """Whether a file with this header is marked as a run file."""
    return header[:16] == b"SQLite format 3\0" and header[68:72] == APPLICATION_ID.to_bytes(4, "big")


def format_of(header: bytes) -> int:
    """The version of the layout."""
    return int.from_bytes(header[60:64], "big")


def uses_log(header: bytes) -> bool:
    """Whether SQLite opens a log (-wal) beside a file with this header."""
    return 2 in header[18:20]


def is_laid_out(db: sqlite3.Connection) -> bool:
    """Whether the file has exactly the tables and the index of robench, created by the same statements.

    Views, triggers, generated columns, defaults and checks evaluate expressions of the file when a table is read. A
    file with our statements contains none of them.
    """
    endless = False

    def stop() -> int:
        nonlocal endless
        endless = True
        return 1

    db.set_progress_handler(stop, STEPS)
    try:
        marks = db.execute("PRAGMA application_id").fetchone(), db.execute("PRAGMA user_version").fetchone()
        found = _objects(db)
    except sqlite3.OperationalError:
        if endless:
            return False
        raise
    finally:
        db.set_progress_handler(None, 0)
    wanted = _ours()
    same = all(found[key] == wanted.get(key) for key in found)
    return marks == ((APPLICATION_ID,), (FORMAT,)) and same and wanted.keys() - found.keys() <= _OPTIONAL


def _objects(db: sqlite3.Connection) -> Objects:
    rows = db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master LIMIT 100").fetchall()
    objects = {(kind, name): (table, " ".join(str(sql).split())) for kind, name, table, sql in rows}
    return objects if len(objects) == len(rows) else {}


@cache
def _ours() -> Objects:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        lay_out(db)
        return _objects(db)
