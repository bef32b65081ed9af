"""Mutated protocols, and texts of threats, attacks and settings of recipes."""

import dataclasses
from pathlib import Path
from random import Random

from robench.recipes import RECIPES
from robench.search.attacks import ATTACKS

from .changes import as_toml, changed, changed_bytes, changed_text, changed_value

BRIEF = ["--quiet", "--precision", "float32", "--run", "new.robench"]
QUICK = [*BRIEF, "--minutes", "0.002"]
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
EXTREMES: dict[type, list[object]] = {
    int: [0, 1, 2, 3, 7, 100, 10**4, 10**6, 10**9, 10**9 + 1],
    float: [0.0, 1e-300, 1e-30, 1e-6, 0.01, 0.5, 0.999999, 1.0, 1.5, 2, 100.0, 1e6, 1e9, 1e30, 1e300],
}
LIBRARIES = ["foolbox:LinfPGD", "foolbox:L2DeepFoolAttack", "foolbox:L2CarliniWagnerAttack", "foolbox:No", "autoattack"]
LIBRARY_SETTINGS = [
    *("", "steps=3", "steps=0", "steps=-1", "steps=x", "steps=1e300", "steps=True", "steps=None", "steps=[3]", "x=1"),
    *("rel_stepsize=nan", "abs_stepsize=1e300", "overshoot=-1", "candidates=0", "candidates=99", "loss=x", "steps=2.5"),
    *("distance=1", "binary_search_steps=0", "init_attack=x", "attack=x", "random_start=2", "=", "("),
    "steps=" + "9" * 400,
]


def protocol(valid: Path, folder: Path, random: Random) -> list[str]:
    """A protocol file, with changed bytes or values."""
    text = as_toml(changed(PROTOCOL, random))
    (folder / "p.toml").write_bytes(changed_bytes(text, random) if random.random() < 0.25 else text)
    return ["evaluate", "digits-nat", "--protocol", "p.toml", *QUICK]


def threat(valid: Path, folder: Path, random: Random) -> list[str]:
    """The text of a threat model."""
    text = changed_text(random.choice(THREATS), random)
    if random.random() < 0.1:
        return ["train", "nat", "--threat", text, "--set", "steps=1", "--no-evaluation", "--out", "new", "--quiet"]
    return ["evaluate", "digits-nat", "--threat", text, "--examples", "2", *QUICK]


def attack(valid: Path, folder: Path, random: Random) -> list[str]:
    """The text of an attack, with settings. Libraries get small numbers: nothing ends their loops early."""
    name = random.choice([*ATTACKS, *LIBRARIES])
    norms = ATTACKS[name].threats if name in ATTACKS else ("linf", "l2")
    if name in LIBRARIES or "reference" in name:
        text = f"{name}({random.choice(LIBRARY_SETTINGS)})"
    else:
        fields = dataclasses.fields(ATTACKS[name])
        chosen = random.sample(fields, min(len(fields), 2))
        text = f"{name}({', '.join(f'{field.name}={_setting(field, random)}' for field in chosen)})"
        text = changed_text(text, random) if random.random() < 0.4 else text
    fit = [t for t in THREATS if t.partition(":")[0] in norms]
    threats = [random.choice(fit)] if fit and random.random() < 0.9 else random.sample(THREATS, 2)
    words = [word for t in threats for word in ("--threat", t)]
    return ["evaluate", "digits-nat", "--attack", text, *words, "--examples", "2", *QUICK]


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


def _setting(field: dataclasses.Field, random: Random) -> object:
    """A value for this setting: an extreme one of its type, any other, or its default."""
    default = field.default
    plain = default if isinstance(default, bool | int | float | str) else 1
    if random.random() < 0.5 and not isinstance(plain, bool | str):
        return random.choice(EXTREMES[type(plain)])
    return changed_value(plain, random) if random.random() < 0.7 else plain
