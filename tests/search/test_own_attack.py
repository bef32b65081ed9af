"""Attacks of the user's own: what is accepted, what is refused, and how their evidence is keyed."""

import subprocess
import sys
from dataclasses import dataclass

import pytest

from robench.attacks import PGD, ForeignAttack, GradientAttack, LabelAttack, ScoreAttack, State
from robench.errors import UserError
from robench.problem import threats
from robench.search import own_attack
from robench.search.attacks import ATTACKS, build, parse
from robench.search.own_attack import Consent, from_user, names_file, names_own

HEAD = """from dataclasses import dataclass
from typing import ClassVar
import torch
from robench.attacks import *
"""
STEPS = """
    def start(self, threat, batch):
        return State(torch.zeros_like(batch.x))

    def step(self, threat, batch, state, seen):
        return state

    @property
    def objective(self):
        return margin
"""
MINE = f"""{HEAD}
@dataclass(frozen=True)
class Mine(GradientAttack):
    threats: ClassVar[tuple[str, ...]] = ("linf", "l2")
    steps: int = 50
    speed: float = 0.5
    mode: str = "fast"
    rate: float | None = None
    early: bool = True
{STEPS}"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


@dataclass(frozen=True)
class AtTheTop(PGD):
    """An attack of this very file."""

    momentum: float = 0.9


# Names


@pytest.mark.parametrize("text", ["mine.py:Mine", "some/where/mine.py:Mine(steps=5)", " ~/mine.py:M(a='x,y')"])
def test_a_class_in_a_file_is_known_by_its_form(text):
    assert names_file(text)


@pytest.mark.parametrize("text", ["pgd", "pgd(loss='a.py:B')", "foolbox:L2PGD(steps=3)", "foolbox:pgd.py", "mine.py"])
def test_a_name_or_setting_is_not_taken_for_a_file(text):
    assert not names_file(text)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_key_of_an_attack_of_robench_is_not_taken_for_an_own_one(name):
    assert not names_own(f"{name}(steps=1)")


def test_neither_parse_nor_build_runs_a_file(folder):
    (folder / "mine.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(UserError, match="no attack is called"):
        build("mine.py:Mine", {})
    with pytest.raises(UserError, match="no attack is called"):
        build(*parse("mine.py:Mine(steps=3)"))


# The key


def test_the_key_holds_file_class_every_setting_and_the_digest_of_the_source(folder):
    attack, label, of_plan = from_user("mine.py:Mine(steps=5, speed=1, restarts=3)")
    name, _, settings = attack.spec.partition("(")
    assert names_own(attack.spec)
    assert settings == "early=True, mode='fast', rate=None, speed=1.0, steps=5, targets=0)"
    assert name.startswith("mine.py@")
    assert name.endswith(":Mine")
    assert (label, of_plan) == ("mine.py:Mine", {"restarts": 3})


def test_the_same_file_elsewhere_has_the_same_key_and_an_edited_one_another(folder):
    here = from_user("mine.py:Mine")[0]
    (folder / "sub").mkdir()
    (folder / "sub" / "mine.py").write_text(MINE)
    assert from_user("sub/mine.py:Mine")[0].spec == here.spec
    (folder / "mine.py").write_text(MINE.replace("zeros_like", "empty_like"))  # of equal length
    edited = from_user("mine.py:Mine")[0]
    assert edited.spec != here.spec
    assert edited.spec.partition("(")[2] == here.spec.partition("(")[2]


def test_the_source_that_is_run_is_the_one_in_the_key_whatever_python_has_cached(folder):
    cached = MINE.replace("steps: int = 50", "steps: int = 99")
    (folder / "mine.py").write_text(cached)
    subprocess.run([sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "."], check=True)
    assert list((folder / "__pycache__").glob("mine*.pyc"))
    (folder / "mine.py").write_text(MINE)
    assert from_user("mine.py:Mine")[0].steps == 50


def test_a_class_an_instance_and_its_text_are_the_same_attack(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    mine = __import__("mine").Mine
    try:
        keys = {from_user(given)[0].spec for given in ("mine.py:Mine", mine, mine(), mine(steps=50))}
        assert len(keys) == 1
        (folder / "mine.py").write_text(MINE.replace("return state", "return None"))
        own_attack._named.cache_clear()
        with pytest.raises(UserError, match=r"mine\.py has changed since Mine was imported from it; restart Python"):
            from_user(mine)
    finally:
        del sys.modules["mine"]


def test_a_subclass_of_an_attack_of_robench_does_not_take_over_its_key():
    attack, label, _ = from_user(AtTheTop(steps=3))
    assert attack.spec.startswith("test_own_attack.py@")
    assert "momentum=0.9" in attack.spec
    assert label == "test_own_attack.py:AtTheTop"
    assert isinstance(attack, PGD)


def test_a_class_that_writes_a_key_of_its_own_does_not_get_it(folder):
    text = MINE.replace(
        "    steps: int", "    name: ClassVar[str] = 'pgd'\n    spec = 'pgd(steps=100)'\n    steps: int"
    )
    (folder / "mine.py").write_text(text)
    attack = from_user("mine.py:Mine")[0]
    assert attack.spec.startswith("mine.py@")
    forged = text.replace("'pgd'", repr(attack.name))
    (folder / "mine.py").write_text(forged)
    assert from_user("mine.py:Mine")[0].name != attack.name


def test_an_instance_of_an_attack_of_robench_is_that_attack():
    attack, label, _ = from_user(PGD(steps=3))
    assert attack == PGD(steps=3)
    assert label == "pgd"


def test_a_class_inside_a_function_has_no_key(folder):
    class Inner(PGD):
        pass

    with pytest.raises(
        UserError, match="Inner is defined inside a function, whose variables the key of its evidence does not cover"
    ):
        from_user(Inner)
    assert from_user(Inner, local=True)[1] == "local:Inner"


def test_a_class_of_a_notebook_is_keyed_by_the_source_of_its_cells(monkeypatch):
    import linecache

    def of(text):
        cell = "<ipython-input-7>"
        monkeypatch.setitem(linecache.cache, cell, (len(text), None, text.splitlines(keepends=True), cell))
        names = {"__name__": "a notebook"}
        exec(compile(text, cell, "exec"), names)
        return from_user(names["Mine"])[0].spec

    assert of(MINE) == of(MINE)
    assert of(MINE).startswith("notebook@")
    assert of(MINE) != of(MINE.replace("return state", "return 1"))


# What is refused


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("mien.py:Mine", "--attack mien.py:Mine: there is no file mien.py; did you mean mine.py?"),
        ("other.py:Mine", "--attack other.py:Mine: there is no file other.py; write file.py:Class or"),
        ("mine.py:Mien", "no attack in mine.py is called 'Mien'; did you mean Mine?"),
        ("mine.py:", "--attack mine.py: cannot be read; write file.py:Class or 'file.py:Class(steps=50)'"),
        ("mine.py:torch", "--attack mine.py:torch is module, not a class"),
        ("mine.py:State", "--attack mine.py:State is no attack; derive the class from one of GradientAttack,"),
        ("mine.py:GradientAttack", "lacks objective and start and step; define them in the class"),
        ("mine.py:Mine(7)", "has a setting without a name; write settings like steps=50"),
        ("mine.py:Mine(steps)", "has a setting without a name|cannot be read"),
        ("mine.py:Mine(step=7)", "no setting of Mine is called 'step'; did you mean steps"),
        ("mine.py:Mine(steps=0)", "Mine cannot take steps=0: write a number from 1 to 1,000,000,000"),
        ("mine.py:Mine(targets=3)", "Mine cannot take targets=3: it aims at no class; it must be 0"),
        ("mine.py:Mine(steps=2.5)", "Mine cannot take steps=2.5: it must be a whole number, like its default 50"),
        ("mine.py:Mine(steps=True)", "Mine cannot take steps=True: it must be a whole number, like its default 50"),
        ("mine.py:Mine(speed=1e999)", "Mine cannot take speed=inf: it must be a finite number, like its default 0.5"),
        ("mine.py:Mine(mode='a under b')", "Mine cannot take mode='a under b': write a number, True, False, None or a"),
        ("mine.py:Mine(rate=[1])", "Mine cannot take rate=[1]: it must be a number"),
        ("mine.py:Mine(steps=open('x'))", "the arguments in --attack mine.py:Mine(steps=open('x')) cannot be read"),
        ("mine.py:Mine(attack='pgd')", "Mine has no setting called attack"),
    ],
)
def test_bad_text_is_one_sentence(folder, text, sentence):
    with pytest.raises(UserError) as raised:
        from_user(text)
    assert "\n" not in str(raised.value)
    assert any(part in str(raised.value) for part in sentence.split("|"))


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "import torch",
            "import torch, no_such_module",
            "importing mine.py failed with ModuleNotFoundError: No module",
        ),
        ("import torch", "import torch; 1 / 0", "importing mine.py failed with ZeroDivisionError: division by zero"),
        ("import torch", "raise SystemExit(3)", "importing mine.py failed with SystemExit: 3"),
        ("import torch", "import", "importing mine.py failed with SyntaxError"),
        ("@dataclass(frozen=True)", "@dataclass", "importing mine.py failed with TypeError: cannot inherit non-frozen"),
        ("@dataclass(frozen=True)", "", "is no dataclass; write @dataclass(frozen=True) above the class"),
        ("def step(", "def setp(", "lacks step; define it in the class"),
        ('("linf", "l2")', "()", "names no threat model; write threats: ClassVar"),
        ('("linf", "l2")', '("linf", "l3")', "no threat model, which --attack mine.py:Mine declares, is called 'l3'"),
        (
            "    steps: int = 50",
            "    reads: ClassVar[str] = 'labels'\n    steps: int = 50",
            "declares reads = 'labels'",
        ),
        ("speed: float = 0.5", "restarts: int = 2", "has a setting called restarts, a word of protocols"),
        ("steps: int = 50", "steps: int", "importing mine.py failed with TypeError|needs steps; write Mine(steps=...)"),
        (
            "    early",
            "    def __post_init__(self): raise KeyError('no')\n    early",
            "cannot be made with these settings",
        ),
        ("(GradientAttack)", "(GradientAttack, LabelAttack)", "failed with TypeError|is of several kinds"),
    ],
)
def test_a_class_that_cannot_run_is_one_sentence(folder, old, new, sentence):
    assert old in MINE
    (folder / "mine.py").write_text(MINE.replace(old, new, 1))
    with pytest.raises(UserError) as raised:
        from_user("mine.py:Mine")
    assert "\n" not in str(raised.value)
    assert any(part in str(raised.value) for part in sentence.split("|"))


def test_the_types_of_its_settings_say_which_values_they_take(folder):
    typed = MINE.replace("speed: float = 0.5", "speed: Annotated[float, Bounds(0, 1)] = 0.5\n    targets: Targets = 0")
    (folder / "mine.py").write_text(typed.replace("import ClassVar", "import Annotated, ClassVar"))
    assert "targets=3" in from_user("mine.py:Mine(targets=3)")[0].spec
    for text, sentence in [
        ("speed=2", "Mine cannot take speed=2.0: it must be from 0 to 1, like its default 0.5"),
        (
            "targets=-1",
            "Mine cannot take targets=-1: 0 aims at no class, 9 at the nine likeliest; it must be at least 0",
        ),
    ]:
        with pytest.raises(UserError) as raised:
            from_user(f"mine.py:Mine({text})")
        assert sentence in str(raised.value)


def test_a_setting_without_a_readable_type_must_still_fit_a_key(folder):
    (folder / "mine.py").write_text(MINE.replace("rate: float | None", "rate: object"))
    for value in ("[1]", "1e999", "'a b'"):
        with pytest.raises(UserError, match=r"Mine cannot take rate=.*: write a number"):
            from_user(f"mine.py:Mine(rate={value})")


def test_a_file_whose_name_would_not_fit_a_key_is_refused(folder):
    (folder / "my mine.py").write_text(MINE)
    with pytest.raises(UserError, match=r"my mine\.py: rename the file, with letters, digits"):
        from_user("my mine.py:Mine")


@pytest.mark.parametrize("given", [3, None, object(), int, State])
def test_what_is_no_attack_is_refused(given):
    with pytest.raises(UserError, match=r"attacks holds|is no attack"):
        from_user(given)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("return 0", "max_queries under linf:0.1 is 0; it must be a whole number from 1 to"),
        ("return 2.5", "max_queries under linf:0.1 is 2.5"),
        ("raise KeyError('no')", "max_queries under linf:0.1 raised KeyError: 'no'"),
    ],
)
def test_a_budget_that_is_none_is_refused(folder, body, sentence):
    (folder / "mine.py").write_text(f"{MINE}\n    def max_queries(self, threat): {body}\n")
    attack = from_user("mine.py:Mine")[0]
    with pytest.raises(UserError) as raised:
        own_attack.refuse_unfit(attack, threats.parse("linf:0.1"))
    assert sentence in str(raised.value)


# Consent


def test_an_attack_on_record_is_built_again_with_its_settings_where_the_user_names_its_file(folder):
    made = from_user("mine.py:Mine(steps=7, mode='slow')")[0]
    assert Consent.of(["mine.py:Mine"]).attack(made.spec).spec == made.spec


def test_without_consent_nothing_is_run(folder):
    spec = from_user("mine.py:Mine")[0].spec
    (folder / "mine.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(UserError, match="is an attack in a file of code, which runs only if you name it"):
        Consent().attack(spec)


def test_consent_to_an_edited_file_is_no_consent_to_what_is_on_record(folder):
    spec = from_user("mine.py:Mine")[0].spec
    (folder / "mine.py").write_text(MINE + "\n")
    with pytest.raises(UserError, match="an edited attack is another attack"):
        Consent.of(["mine.py:Mine"]).attack(spec)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("pgd", "--attack pgd is no attack of your own"), ("mine.py:Mine(steps=5)", "has settings, and those on record")],
)
def test_consent_names_a_file_and_a_class_alone(folder, text, sentence):
    with pytest.raises(UserError, match=sentence):
        Consent.of([text])


def test_each_kind_of_attack_can_be_derived_from(folder):
    loop = "\n    def run(self, model, threat, batch): model(batch.x)\n    max_queries = lambda self, threat: 1\n"
    bodies = {
        GradientAttack: STEPS,
        ScoreAttack: STEPS + "\n    def query(self, threat, batch, state): return batch.x[:, None]\n",
        LabelAttack: STEPS + "\n    def query(self, threat, batch, state): return batch.x[:, None]\n",
        ForeignAttack: loop,
    }
    for kind, body in bodies.items():
        steps = "" if kind is ForeignAttack else "    steps: int = 3\n"
        head = MINE.split("    steps: int")[0].replace("(GradientAttack)", f"({kind.__name__})")
        (folder / "mine.py").write_text(head + steps + body)
        attack = from_user("mine.py:Mine")[0]
        assert isinstance(attack, kind)
        assert attack.reads == kind.reads
