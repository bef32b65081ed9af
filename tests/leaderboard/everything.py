"""A board on which every field is filled, so that its pages show every part."""

import msgspec
import numpy as np

from robench.leaderboard.entries import (
    LEVELS,
    Certified,
    ClaimedRow,
    ClassResult,
    HistoryEntry,
    QueryCurve,
)
from robench.leaderboard.pictures import Adversarial, TableImages
from robench.leaderboard.site import Download, Extras

IMAGES = 20  # of a table


def filled(board, places=(0, 1)):
    """The board with levels and query curves at these places, classes, history, and numbers that others state."""
    tables = tuple(_filled_table(table, places) for table in board.tables)
    return msgspec.structs.replace(board, tables=tables)


def extras(board):
    """Random images of every table, and a file in place of each model's run."""
    images = {(board.id, table.id): _images(table) for table in board.tables}
    runs = {(board.id, row.id): Download(b"run file", 7) for table in board.tables for row in table.models}
    return Extras(images, runs, "https://board.invalid/")


def levels(outcomes, random):
    """A random level for every broken example."""
    return "".join(random.choice(list(LEVELS)) if letter == "B" else letter for letter in outcomes)


def _filled_table(table, places):
    random = np.random.default_rng(len(table.models))
    models = tuple(_filled_model(table, row, places, random) for row in table.models)
    accuracy = {"clean": 0.99, "union": 0.5, table.threats[0]: 0.625}
    claimed = (ClaimedRow("a published model", "a paper with a long name, table 3", accuracy),)
    return msgspec.structs.replace(table, models=models, claimed=claimed)


def _filled_model(table, row, places, random):
    threats = tuple(
        msgspec.structs.replace(
            t,
            levels=levels(t.outcomes, random),
            queries=(QueryCurve("pgd", (1, 10, 100, 1000), (0.9, 0.8, 0.7, t.share.accuracy)),),
        )
        if place in places
        else t
        for place, t in enumerate(row.threats)
    )
    shares = tuple(t.share.accuracy for t in row.threats)
    classes = tuple(ClassResult(label, 9 + label, 0.9, shares, row.union.accuracy) for label in range(10))
    lowered = {table.threats[0]: 3, "union": 2}
    history = (
        HistoryEntry("", "made", "", {}, tuple(min(1.0, s + 0.1) for s in shares), 0.75, 0.875),
        HistoryEntry("2026-11-20T06:10:00Z", "made", "", {}, tuple(min(1.0, s + 0.05) for s in shares), 0.5, 0.625),
        HistoryEntry(
            "2026-11-26T06:10:00Z", "stronger", "somebody", lowered, shares, row.union.accuracy, row.average.accuracy
        ),
    )
    card = row.card and msgspec.structs.replace(
        row.card, notes="A note.", certified=(Certified(table.threats[0], 0.03125, "interval bounds, a paper"),)
    )
    return msgspec.structs.replace(
        row, threats=threats, classes=classes, history=history, card=card, parameters=123_456, competitiveness=0.75,
        competitiveness_worst=0.5, stability=0.25,
    )  # fmt: skip


def _images(table):
    random = np.random.default_rng(0)
    clean = [random.random((1, 8, 8), dtype=np.float32) for _ in range(min(IMAGES, table.examples))]
    adversarial = {}
    for row in table.models:
        for t in row.threats:
            broken = [place for place in range(len(clean)) if t.outcomes[place] == "B"]
            changed = {place: Adversarial(np.clip(clean[place] + 0.25, 0, 1), 0.25) for place in broken}
            adversarial[row.id, t.threat] = changed
    return TableImages(range(len(clean)), [place % 10 for place in range(len(clean))], clean, adversarial)
