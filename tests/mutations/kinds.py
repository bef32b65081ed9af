"""The kinds of inputs: how each is mutated, and the command that reads it.

Every function gets the folder with the valid files, the working folder of the command, and the random numbers of the
input; it writes what the command reads, and returns the words of the command.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import torch

from robench.cli.site_folder import MANIFEST, SCHEMA
from robench.evidence.store import RunFile
from robench.problem import checkpoints, datasets
from robench.problem.checkpoints.zoo import zoo_card

from . import arrays, graphs, runs, texts
from .changes import as_json, as_toml, changed, changed_bytes
from .runs import alter
from .texts import PROTOCOL, QUICK

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


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
        alter(next(where.glob("*.robench")), random)
    return ["leaderboard", "board.robench", "--json", "d", "--submissions", "submissions", "--search", "0"]


KINDS: dict[str, tuple[Callable[[Path, Path, Random], list[str]], int]] = {
    "run file": (runs.run_file, 2600),
    "summary": (runs.summary, 2000),
    "protocol": (texts.protocol, 1400),
    "card": (card, 700),
    "arrays": (arrays.arrays, 1000),
    "weights": (arrays.weights, 400),
    "graph": (graphs.graph, 300),
    "threat": (texts.threat, 500),
    "attack": (texts.attack, 600),
    "recipe": (texts.recipe, 350),
    "manifest": (manifest, 50),
    "submission": (submission, 100),
}
"""Every kind with the number of its inputs, 10,000 in all."""


def valid_files(folder: Path, robench: Callable[..., None]) -> None:
    """Write the valid inputs that are mutated; `robench` runs a command that has to succeed."""
    (folder / "tiny.toml").write_bytes(as_toml(PROTOCOL))
    evaluate = ["evaluate", "digits-nat", "--quiet", "--precision", "float32"]
    robench(*evaluate, "--protocol", "tiny.toml", "--run", "rt.robench", "--json", "rt.json", "--masking", "on")
    words = [
        "--threat",
        "linf:0.1",
        "--threat",
        "l2:0.5",
        "--curve",
        "--examples",
        "12",
        "--run",
        "lp.robench",
        "--json",
        "lp.json",
    ]
    robench(*evaluate, *words, "--attack", "pgd(steps=3, restarts=2)", "--attack", "fmn(steps=4)")
    for suffix in (".toml", ".safetensors"):
        shutil.copy(zoo_card("digits-nat").with_suffix(suffix), folder)
    robench("export", "lp.robench", "--out", "claims.npz", "--quiet")
    split = datasets.load("digits").take(range(12))
    np.savez_compressed(folder / "images.npz", x=split.x.numpy(), y=split.y.numpy(), classes=10)
    state = checkpoints.load("digits-nat").classifier.module.state_dict()
    np.savez(folder / "weights.npz", **{key: value.numpy() for key, value in state.items()})
    torch.save(dict(state), folder / "digits-nat.pt")
    graphs.write_graph(folder / "model.onnx")
    robench("leaderboard", "lp.robench", "--out", "site", "--no-runs", "--images", "0")
    robench("submit", "lp.robench", "--name", "more", "--by", "Ada", "--out", "submissions", "--quiet")
    with RunFile.read(folder / "rt.robench") as run:
        assert run.evidence().claims
