"""`robench submit` and `robench leaderboard --submissions`, on a board of two models of digits."""

import json
import pickle
import re
import shutil
import sqlite3
import zlib
from pathlib import Path

import msgspec
import pytest
import torch

from robench.evaluation import acceptance
from robench.evidence.store import RunFile
from robench.leaderboard.submissions import CARD, RUN, STATEMENT, Submission
from robench.problem import checkpoints, durable
from robench.problem.checkpoints.cards import Card, read_card, write_card

from .conftest import files, run_once
from .test_strangers import altered, plan_of, replan

pytestmark = pytest.mark.costly  # what they share takes half a minute

DATE = "2026-11-26T06:10:00Z"
BROKEN_ANEW = (7, 23)  # which stand under l2:2 on the board of digits-adv-linf, and fmn breaks
NET = "net-one"


def typed(*words):
    """A command outside a test."""
    run_once(*words, slots=64, SOURCE_DATE_EPOCH="1795673400")


@pytest.fixture(scope="session")
def prepared_once(tmp_path_factory):
    """A board, a challenge to it, and a model that it does not have; each is submitted once."""
    folder = tmp_path_factory.mktemp("submissions")
    (folder / "board").mkdir()
    for name, examples in (("digits-nat", "25"), ("digits-adv-linf", "24")):  # each has a table of its own
        typed("evaluate", name, "--examples", examples, "--quiet", "--run", folder / "all.robench")
        typed("merge", folder / "all.robench", "--slim", "--out", folder / "board" / f"{name}.robench")
        (folder / "all.robench").unlink()
    challenged = ("--threat", "l2:2", "--attack", "fmn", "--examples", "7:24", "--quiet")
    typed("evaluate", "digits-adv-linf", *challenged, "--run", folder / "challenge.robench")
    net = checkpoints.load("digits-nat").classifier
    with torch.no_grad():
        noise = torch.Generator().manual_seed(0)
        for p in net.module.parameters():
            p += 0.01 * p.abs().mean() * torch.randn(p.shape, generator=noise)
    inner = net.module[-1] if isinstance(net.module, torch.nn.Sequential) and len(net.module) == 2 else net.module
    about = {"architecture": net.architecture, "normalisation": net.normalisation, "shape": net.shape, "classes": 10}
    sha256 = checkpoints.save(inner, folder / "net.safetensors", **about)
    card = Card(name=NET, data="digits", weights="net.safetensors", sha256=sha256, recipe="noise", minutes=1.0, **about)
    write_card(folder / "net.toml", card)
    threats = ("--threat", "linf:0.2", "--threat", "l2:2")
    question = ("--data", "digits", "--protocol", "quick", *threats, "--examples", "10", "--quiet")
    typed("evaluate", folder / "net.toml", *question, "--run", folder / "net.robench")
    out = ("--out", folder / "sent", "--quiet")
    typed("submit", folder / "challenge.robench", "--name", "fmn-one", "--by", "Ada", *out)
    given = ("--weights", folder / "net.safetensors", "--card", folder / "net.toml", "--search", "0")
    typed("submit", folder / "net.robench", "--name", NET, "--by", "Bob", *given, *out)
    return folder


@pytest.fixture
def here(prepared_once, folder, monkeypatch):
    """All of that in the working folder; the two submissions are in sent/."""
    shutil.copytree(prepared_once, folder, dirs_exist_ok=True)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1795673400")
    return folder


def only(here, *names):
    """Leaves these submissions."""
    for path in (here / "sent").iterdir():
        if path.name not in names:
            shutil.rmtree(path)


def built(robench, *words, code=0):
    """The rows of the table with the models of the board, by name; and what the command printed."""
    result = robench("leaderboard", "board", "--json", "data", *words)
    assert result.code == code, result
    return rows(Path("data")), result


def rows(data):
    tables = json.loads((data / "digits-test.json").read_text())["tables"]
    return {row["name"]: row for table in reversed(tables) for row in table["models"]}


SENT = ("--submissions", "sent", "--weights", "net.safetensors", "--search", "0")


# What is accepted


def test_a_challenge_lowers_a_number_and_the_history_names_who_did_it(here, robench):
    only(here, "fmn-one")
    before, _ = built(robench)
    after, result = built(robench, *SENT)
    old, new = before["digits-adv-linf"], after["digits-adv-linf"]
    assert result.out.splitlines()[0] == (
        "fmn-one by Ada: accepted: digits-adv-linf on 24 examples: l2:2 from 8.3 to 0.0 %"
    )
    assert [t["broken"] for t in new["threats"]] == [t["broken"] + 2 * (t["threat"] == "l2:2") for t in old["threats"]]
    changed = [
        i for i, (a, b) in enumerate(zip(*(r["threats"][1]["outcomes"] for r in (old, new)), strict=True)) if a != b
    ]
    assert tuple(changed) == BROKEN_ANEW
    assert new["history"][:1] == old["history"]
    (entry,) = new["history"][1:]
    assert (entry["date"], entry["source"], entry["by"]) == (DATE, "fmn-one", "Ada")
    assert entry["lowered"] == {"l2:2": 2}
    assert entry["threats"] == [t["share"]["accuracy"] for t in new["threats"]]
    assert after["digits-nat"] == before["digits-nat"]
    for key in ("protocol", "other_protocols", "seeds", "commands", "backwards", "forwards", "masking", "clean", "id"):
        assert new[key] == old[key], key


def test_check_counts_accepted_submissions_and_fails_for_a_refused_one(here, robench):
    only(here, "fmn-one")
    built(robench, *SENT)
    words = ("leaderboard", "board", "--check", "data")
    assert robench(*words, *SENT).code == 0
    assert "differs from what the runs give" in robench(*words).err
    (here / "sent" / "fmn-one" / "more.txt").write_text("")
    result = robench(*words, *SENT)
    assert result.code == 1
    assert result.err.splitlines()[0].startswith("fmn-one: refused: it holds 'more.txt'")
    _, result = built(robench, *SENT, code=1)
    assert rows(here / "data") == built(robench)[0]


def test_a_new_model_has_a_row_with_its_card_and_says_who_sent_it(here, robench):
    found, result = built(robench, *SENT)
    row = found[NET]
    assert (row["card"]["recipe"], row["card"]["minutes"], row["protocol"]) == ("noise", 1.0, "quick, own threats")
    assert f"Note: submitted by Bob as {NET}." in row["notes"]
    assert [(e["source"], e["by"], e["date"]) for e in row["history"]] == [(NET, "Bob", DATE)]
    assert f"{NET} by Bob: accepted: adds {NET} on 10 examples, union" in result.out
    assert "no standing example was searched again" in result.out


def test_standing_examples_of_a_new_model_are_searched_again_and_what_breaks_counts(here, robench):
    only(here, NET)
    honest, _ = built(robench, *SENT)
    forge_standing(here / "sent" / NET, 1)
    words = ("--submissions", "sent", "--weights", "net.safetensors", "--search", "100", "--seed", "3")
    forged, _ = built(robench, *SENT)
    assert forged[NET]["threats"] != honest[NET]["threats"]
    found, result = built(robench, *words, "--found", "found")
    assert [t["outcomes"] for t in found[NET]["threats"]] == [t["outcomes"] for t in honest[NET]["threats"]]
    assert f"searched again with seed 3, 1 broken; what broke them is in found/{NET}-3.robench" in result.out
    kept = (here / "found" / f"{NET}-3.robench").read_bytes()
    _, result = built(robench, *words, "--found", "found")  # the same search finds the same
    assert f"what broke them is in found/{NET}-3.robench" in result.out
    assert (here / "found" / f"{NET}-3.robench").read_bytes() == kept
    again = robench("leaderboard", "board", "found", *SENT, "--check", "data")
    assert again.code == 0, again
    assert robench("verify", f"found/{NET}-3.robench", "--model", "net.toml").code == 0
    shutil.copy(here / "board" / "digits-adv-linf.robench", here / "found" / f"{NET}-3.robench")
    other = robench("leaderboard", "board", "--json", "data", *words, "--found", "found")
    assert f"found/{NET}-3.robench exists already" in other.err


def test_the_site_shows_the_images_of_a_submission_and_its_run_file_holds_nothing_else_of_it(here, robench):
    only(here, "fmn-one")
    html = "<img src=x onerror=alert(1)>"
    resent(here, "fmn-one", "second", lambda path: None, by=html)
    shutil.rmtree("sent/fmn-one")
    assert robench("leaderboard", "board", "--out", "site", *SENT).code == 0
    pages = {path: path.read_text() for path in (here / "site").rglob("*.html")}
    assert any("&lt;img src=x onerror" in text for text in pages.values())
    assert not any(html in text for text in pages.values())
    (run,) = (path for path in (here / "site").rglob("*.robench") if path.name.startswith("digits-adv-linf"))
    with RunFile.read(run) as merged, RunFile.read(here / "board" / "digits-adv-linf.robench") as before:
        evidence, known = merged.evidence(), before.evidence()
        assert len(list(merged.images((1, 28, 28)))) == 17
    assert evidence.clean == known.clean
    assert evidence.exhausted == known.exhausted
    assert {c.key.name for c in evidence.claims} == {c.key.name for c in known.claims} | {"claim"}


def test_a_second_submission_about_a_new_model_is_a_challenge_to_it(here, robench):
    resent(here, NET, "net-two", lambda path: replan(path, lambda plan: plan.update(seed=1)))
    found, result = built(robench, *SENT)
    assert "net-two by Bob: accepted: lowers no number" in result.out
    assert [e["source"] for e in found[NET]["history"]] == [NET]


def test_a_challenge_to_a_submitted_model_needs_no_card_and_no_address(here, robench):
    resent(here, NET, "a-challenge", lambda path: replan(path, lambda plan: plan.update(seed=1)))
    (here / "sent" / "a-challenge" / CARD).unlink()
    other = resent(here, NET, "other-normalisation", lambda path: None)
    card = msgspec.structs.replace(read_card(here / "net.toml"), name="other", normalisation="0.5/0.5")
    write_card(other / CARD, card)
    _, result = built(robench, *SENT, code=1)
    assert "a-challenge by Bob: accepted: lowers no number" in result.out
    assert re.search(
        "^other-normalisation: refused: its run file does not hold: the plan: its model has norm", result.err
    )


def test_whatever_a_submission_makes_raise_refuses_it_alone(here, robench, monkeypatch):
    verified = acceptance.verified

    def raising(path, *more):
        if NET in str(path):
            raise RuntimeError("first line\nsecond")
        return verified(path, *more)

    monkeypatch.setattr(acceptance, "verified", raising)
    _, result = built(robench, *SENT, code=1)
    assert result.err == f"{NET}: refused: it cannot be verified: RuntimeError: first line\n"
    assert "fmn-one by Ada: accepted" in result.out


def test_the_boards_own_run_submitted_changes_nothing(here, robench):
    only(here, "fmn-one")
    shutil.copy("challenge.robench", "board")
    before, _ = built(robench)
    after, result = built(robench, *SENT)
    assert after == before
    assert "fmn-one by Ada: accepted: lowers no number" in result.out


def test_submissions_give_the_same_bytes_in_whatever_order_they_came(here, robench):
    resent(here, "fmn-one", "a-copy", lambda path: None, by="Bob")
    built(robench, *SENT)
    before = files(here / "data")
    (here / "other").mkdir()
    for path in sorted((here / "sent").iterdir(), reverse=True):
        shutil.copytree(path, here / "other" / path.name)
    assert robench("leaderboard", "board", "--json", "again", *SENT[2:], "--submissions", "other").code == 0
    assert files(here / "again") == before


# What is refused


def sql(path, *statements):
    with sqlite3.connect(path) as db:
        for statement in statements:
            db.execute(statement)
    db.close()


def resent(here, of, name, change, **stated):
    """A copy of a submission with another run file, which `change` alters, and another statement."""
    folder = here / "sent" / name
    shutil.copytree(here / "sent" / of, folder)
    change(folder / RUN)
    fields = stated_in(folder / STATEMENT) | {"name": name, "run_sha256": durable.sha256(folder / RUN)} | stated
    (folder / STATEMENT).write_bytes(Submission(**fields).to_toml())
    return folder


def stated_in(path):
    return msgspec.to_builtins(msgspec.toml.decode(path.read_bytes(), type=Submission))


def first_break(path):
    with RunFile.read(path) as run:
        return next(c for c, v in run.evidence().judged() if v.accepted)


def other_image(path):
    """The image of one example becomes that of another, with its true hash."""
    claim = first_break(path)
    sql(
        path,
        "UPDATE claim SET (image, encoding, sha256) = (SELECT image, encoding, sha256 FROM claim WHERE image IS NOT"
        f" NULL AND id != {claim.id} LIMIT 1) WHERE id = {claim.id}",
    )


def forge_standing(folder, n):
    """Makes n broken examples of a run stand, as if every search had failed."""
    path = folder / RUN
    with RunFile.read(path) as run:
        plan, evidence = run.plan(), run.evidence()
    by_example = {}
    for claim, verdict in evidence.judged():
        if verdict.accepted:
            by_example.setdefault(claim.example, []).append(claim.threat)
    for example in sorted(by_example, key=lambda example: len(set(by_example[example])))[:n]:
        altered(path, "DELETE FROM verdict WHERE claim IN (SELECT id FROM claim WHERE example = ?)", example)
        altered(path, "DELETE FROM claim WHERE example = ?", example)
        for t in plan.threats:
            for a in t.attacks:
                done = ((1 << a.items) - 1).to_bytes((a.items + 7) // 8, "little")
                row = [example, t.threat, a.spec, a.items, 10**6, 10**6, done]
                altered(path, "INSERT OR REPLACE INTO spent VALUES (?, ?, ?, ?, ?, ?, ?)", *row)
    statement = stated_in(folder / STATEMENT) | {"run_sha256": durable.sha256(path)}
    (folder / STATEMENT).write_bytes(Submission(**statement).to_toml())


def refusal(robench, name, *words):
    """The sentence with which this submission is refused; the board is as it is without it."""
    before = rows_without(robench)
    result = robench("leaderboard", "board", "--json", "data", *(words or SENT))
    assert result.code == 1, result
    (line,) = [line for line in result.err.splitlines() if line.startswith(f"{name}: refused: ")]
    assert "this is a bug" not in result.err
    assert rows(Path("data")) == before
    return line.removeprefix(f"{name}: refused: ")


WITHOUT = {}  # the rows of a board, by its files: it is built once for all refusals


def rows_without(robench):
    board = tuple(files(Path("board")).items())
    if board not in WITHOUT:
        assert robench("leaderboard", "board", "--json", "without").code == 0
        WITHOUT[board] = rows(Path("without"))
    return WITHOUT[board]


FORGED_RUNS = {
    "an image outside the ball": (
        lambda path: sql(path, "UPDATE claim SET threat = 'l2:1'", "UPDATE verdict SET size = 0.9"),
        "its image lies at",
    ),
    "an image of another example": (other_image, r"example \d+ under l2:2: its image"),
    "other clean images under the name of the data": (
        lambda path: replan(path, lambda plan: plan.update(data_sha256="0" * 64)),
        "digits:test holds other images than its run file is about",
    ),
    "training images": (
        lambda path: replan(path, lambda plan: plan.update(data="digits:train")),
        "no run of the board is about 'digits:train'",
    ),
    "a file as the data": (
        lambda path: replan(path, lambda plan: plan.update(data="/etc/passwd")),
        "no run of the board is about '/etc/passwd'",
    ),
    "another model's name": (
        lambda path: replan(path, lambda plan: plan["model"].update(name="digits-nat")),
        "it states that its model is 'digits-adv-linf', and its run file 'digits-nat'",
    ),
    "a trigger": (
        lambda path: sql(path, "CREATE TRIGGER t AFTER INSERT ON claim BEGIN DELETE FROM claim; END"),
        "is not laid out as a robench run file",
    ),
    "an image that unpacks to gigabytes": (
        lambda path: altered(path, "UPDATE claim SET image = ?", bomb()),
        "is damaged: the image of example",
    ),
    "no images": (
        lambda path: sql(path, "UPDATE claim SET image = NULL, encoding = NULL"),
        "broken by an image that is not kept",
    ),
    "no SQLite file": (lambda path: path.write_bytes(b"<html>"), "is not a robench run file"),
}


def bomb():
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(64)) + packer.flush()


@pytest.mark.parametrize("kind", FORGED_RUNS)
def test_a_hostile_run_file_is_refused_with_a_sentence_of_its_own(here, robench, kind):
    change, message = FORGED_RUNS[kind]
    resent(here, "fmn-one", "hostile", change)
    only(here, "hostile")
    assert re.search(message, refusal(robench, "hostile"))


def test_images_that_fool_another_model_are_refused(here, robench):
    typed(
        *("evaluate", "digits-nat", "--threat", "l2:2", "--attack", "fmn", "--examples", "7:24", "--quiet"),
        *("--run", here / "nat.robench"),
    )
    wanted = plan_of(here / "challenge.robench")["model"]

    def change(path):
        shutil.copy(here / "nat.robench", path)
        replan(path, lambda plan: plan.update(model=wanted))

    resent(here, "fmn-one", "hostile", change)
    only(here, "hostile")
    assert "its run file does not hold: example" in refusal(robench, "hostile")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("command", "x" * 10_001), "holds a text of 10,001 characters"),
        (("note of mine", "x" * 20_000_000), "holds a text of 20,000,000 characters"),
    ],
)
def test_a_run_file_with_an_endless_text_is_refused_at_once(here, robench, change, message):
    resent(
        here, NET, "hostile", lambda path: altered(path, "INSERT OR REPLACE INTO environment VALUES (?, ?)", *change)
    )
    only(here, "hostile")
    assert message in refusal(robench, "hostile")


@pytest.mark.parametrize("minutes", ["nan", "inf", "-1.0"])
def test_a_card_with_impossible_minutes_is_refused(here, robench, minutes):
    only(here, NET)
    card = here / "sent" / NET / CARD
    card.write_text(card.read_text().replace("minutes = 1.0", f"minutes = {minutes}"))
    assert "minutes" in refusal(robench, NET)


def test_what_a_search_breaks_has_a_place_that_no_submission_can_take(here, robench):
    forge_standing(here / "sent" / NET, 1)
    resent(here, NET, f"{NET}-3", lambda path: replan(path, lambda plan: plan.update(seed=1)))
    words = ("--submissions", "sent", "--weights", "net.safetensors", "--search", "100", "--seed", "3")
    assert robench("leaderboard", "board", "--out", "site", *words).code == 0


def test_a_submission_is_no_run_of_the_board(here, refused):
    message = "belongs to a submission, which counts only when it is verified"
    assert message in refused("leaderboard", "board", "sent", "--json", "data")
    assert message in refused("leaderboard", ".", "--json", "data", *SENT)
    assert message in refused("submit", "challenge.robench", "--name", "mine", "--by", "Ada", "--board", ".")


def test_a_submission_renames_no_file_of_another_model(here, robench):
    before, _ = built(robench)
    net = checkpoints.load("digits-nat").classifier
    about = {"architecture": net.architecture, "normalisation": "0.5/0.5", "shape": net.shape, "classes": 10}
    inner = net.module[-1] if isinstance(net.module, torch.nn.Sequential) and len(net.module) == 2 else net.module
    sha256 = checkpoints.save(inner, here / "twin.safetensors", **about)
    write_card(here / "twin.toml", Card(name="twin", data="digits", weights="twin.safetensors", sha256=sha256, **about))
    question = ("--data", "digits", "--protocol", "quick", "--threat", "linf:0.2", "--examples", "10", "--quiet")
    typed("evaluate", "twin.toml", *question, "--run", "twin.robench")
    given = ("--weights", "twin.safetensors", "--card", "twin.toml", "--search", "0", "--out", "sent", "--quiet")
    typed("submit", "twin.robench", "--name", "twin", "--by", "Eve", *given)
    after, _ = built(robench, *SENT, "--weights", "twin.safetensors")
    assert after["twin"]["id"] != before["digits-nat"]["id"]
    assert after["digits-nat"]["id"] == before["digits-nat"]["id"]


def test_a_run_file_with_another_hash_is_refused(here, robench):
    only(here, "fmn-one")
    sql(here / "sent" / "fmn-one" / RUN, "UPDATE environment SET value = 'x' WHERE key = 'python'")
    assert "the hash of its run file is" in refusal(robench, "fmn-one")


def test_weights_with_another_hash_are_refused(here, robench):
    only(here, NET)
    altered_weights = bytearray(Path("net.safetensors").read_bytes())
    altered_weights[-1] ^= 1
    Path("net.safetensors").write_bytes(altered_weights)
    assert "it states no address of its weights; name their file with --weights" in refusal(robench, NET)


def test_weights_of_no_known_model_without_a_card_are_refused(here, robench):
    resent(here, "fmn-one", "hostile", lambda path: None, weights_sha256="ab" * 32)
    only(here, "hostile")
    assert "are those of no bundled model, and it has no card.toml" in refusal(robench, "hostile")


class Planted:
    def __reduce__(self):
        return Path.write_text, (Path("planted"), "ran")


def test_weights_that_are_code_run_nothing(here, robench):
    only(here, NET)
    Path("evil.pt").write_bytes(pickle.dumps({"state_dict": Planted()}))
    torch.save({"weight": torch.zeros(1), "more": Planted()}, "evil.pth")
    for evil in ("evil.pt", "evil.pth"):
        folder = here / "sent" / NET
        write_card(
            folder / CARD,
            msgspec.structs.replace(read_card(here / "net.toml"), weights=evil, sha256=durable.sha256(Path(evil))),
        )
        stated = stated_in(folder / STATEMENT) | {"weights_sha256": durable.sha256(Path(evil))}
        (folder / STATEMENT).write_bytes(Submission(**stated).to_toml())
        words = ("--submissions", "sent", "--weights", evil, "--search", "0")
        assert "--trust-pickle" in refusal(robench, NET, *words)
        assert not Path("planted").exists()


@pytest.mark.parametrize("arch", ["evil.py:make", "os:system('touch planted')"])
def test_a_card_that_names_code_runs_nothing(here, robench, arch):
    only(here, NET)
    Path("evil.py").write_text("open('planted', 'w')\n")
    folder = here / "sent" / NET
    write_card(folder / CARD, msgspec.structs.replace(read_card(here / "net.toml"), architecture=arch))
    refusal(robench, NET)
    assert not Path("planted").exists()


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"classes": 12}, "states 12 classes, and the model has 10 outputs"),
        ({"shape": (1, 32, 32)}, "its card states images of 1x32x32, and those of digits:test are 1x28x28"),
    ],
)
def test_a_card_of_other_images_or_classes_is_refused(here, robench, stated, message):
    only(here, NET)
    write_card(here / "sent" / NET / CARD, msgspec.structs.replace(read_card(here / "net.toml"), **stated))
    assert message in refusal(robench, NET)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digits-nat", "and digits-nat is another model"),
        ("DIGITS_nat", "digits-nat is another model"),
        ("digits-adv-1inf", "digits-adv-linf is another model"),
        ("<b>net</b>", "the name of a new model has letters"),
        ("nеt", "the name of a new model has letters"),  # the second letter is Cyrillic
    ],
)
def test_a_new_model_cannot_pass_for_another(here, robench, name, message):
    folder = resent(
        here, NET, "hostile", lambda path: replan(path, lambda plan: plan["model"].update(name=name)), model=name
    )
    write_card(folder / CARD, msgspec.structs.replace(read_card(here / "net.toml"), name=name))
    only(here, "hostile")
    assert message in refusal(robench, "hostile")


def test_forged_standing_is_found_by_searching_again(here, robench):
    only(here, NET)
    forge_standing(here / "sent" / NET, 100)
    words = ("--submissions", "sent", "--weights", "net.safetensors")
    assert re.search(
        r"of \d+ standing examples that were searched again \(seed \d+\) \d+ were broken; an honest run",
        refusal(robench, NET, *words),
    )


def test_a_new_model_by_a_protocol_of_its_own_is_refused(here, robench):
    resent(here, NET, "hostile", lambda path: replan(path, lambda plan: plan.update(protocol="strongest")))
    only(here, "hostile")
    assert "it follows the protocol 'strongest'" in refusal(robench, "hostile")


def test_a_new_model_on_a_choice_of_examples_is_refused(here, robench):
    question = ("--data", "digits", "--protocol", "quick", "--threat", "linf:0.2", "--quiet")
    typed("evaluate", "net.toml", *question, "--examples", "20:23", "--run", here / "chosen.robench")
    resent(here, NET, "hostile", lambda path: shutil.copy(here / "chosen.robench", path))
    only(here, "hostile")
    assert "it is about a choice of examples" in refusal(robench, "hostile")


def test_weights_at_an_address_are_downloaded_with_tls_and_a_limit(here, robench, monkeypatch):
    wanted = []

    def fetch(download, folder, *, subject, way_out):
        wanted.append(download)
        return Path("net.safetensors")

    monkeypatch.setattr(acceptance, "fetch", fetch)
    address = "https://example.org/net.safetensors"
    resent(here, NET, "net-two", lambda path: None, weights=address)
    only(here, "net-two")
    assert robench("leaderboard", "board", "--json", "data", "--submissions", "sent", "--search", "0").code == 0
    (download,) = wanted
    assert (download.urls, download.tls, download.max_bytes) == ((address,), True, 2**31)
    assert download.checksum == f"sha256:{durable.sha256(Path('net.safetensors'))}"


# submit


def test_submit_prints_what_the_board_would_show(here, robench):
    words = ("submit", "challenge.robench", "--name", "mine", "--by", "Ada <b>", "--board", "board", "--out", "out")
    result = robench(*words, "--note", "found by fmn", "--link", "https://example.org/")
    assert result.code == 0
    assert result.out == "mine by Ada <b>: accepted: digits-adv-linf on 24 examples: l2:2 from 8.3 to 0.0 %\n"
    assert sorted(path.name for path in (here / "out" / "mine").iterdir()) == [RUN, STATEMENT]
    stated = stated_in(here / "out" / "mine" / STATEMENT)
    assert (stated["by"], stated["note"], stated["model"]) == ("Ada <b>", "found by fmn", "digits-adv-linf")
    with RunFile.read(here / "out" / "mine" / RUN) as run:
        assert str(here) not in json.dumps(run.evidence().environment)
    assert robench("verify", f"out/mine/{RUN}").code == 0
    assert (here / "out" / "mine" / RUN).read_bytes() == (here / "sent" / "fmn-one" / RUN).read_bytes()


def test_submit_of_a_forged_run_writes_nothing(here, refused):
    altered(here / "challenge.robench", "UPDATE verdict SET margin = 0 WHERE accepted")
    words = ("submit", "challenge.robench", "--name", "mine", "--by", "Ada", "--out", "out")
    assert "its run file does not hold" in refused(*words)
    assert "the board would refuse this" in refused(*words, "--board", "board")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--name", "../up"), "no name of a submission"),
        (("--name", "fmn-one", "--out", "sent"), "exists already"),
        (("--by", "a\nb"), "by is"),
        (("--link", "http://example.org/"), "link is"),
        (("--weights", "http://example.org/net.pt"), "begins with https://"),
        (("--weights", "https://example.org/net.pt"), "add --sha256"),
        (("--weights", "missing.pt"), "there is no file missing.pt"),
        (("--weights", "net.safetensors"), "name the card of the model with --card"),
        (("--weights", "net.safetensors", "--sha256", "ab"), "the hash of the weights is"),
        (("--weights", "net.safetensors", "--card", "net.toml"), "its run file does not hold: the plan: its model has"),
        (("--card", "net.toml"), "leave --card out"),
        (("--board", "missing"), "missing"),
        (("--out", "tiny.toml"), "tiny.toml"),
    ],
)
def test_submit_refuses_bad_input_in_one_sentence(here, refused, words, message):
    fixed = {"--name": "mine", "--by": "Ada", "--out": "out"} | dict(zip(words[::2], words[1::2], strict=True))
    assert message in refused("submit", "challenge.robench", *(word for pair in fixed.items() for word in pair))


def test_submit_says_how_a_network_that_is_code_can_be_sent(here, refused):
    card = (here / "net.toml").read_text()
    (here / "mine.toml").write_text(re.sub(r'architecture = ".*"', 'architecture = "net.py:Net"', card))
    words = ("--name", "mine", "--by", "Ada", "--weights", "net.safetensors", "--card", "mine.toml", "--out", "out")
    result = refused("submit", "net.robench", *words)
    assert "names the architecture 'net.py:Net', which is code, and a board runs none" in result
    assert "TorchScript" in result
    assert not (here / "out").exists()


def test_submit_refuses_a_slim_run_and_a_run_of_an_unknown_model(here, robench, refused):
    assert robench("merge", "challenge.robench", "--slim", "--out", "slim.robench").code == 0
    assert "slim.robench is slim" in refused("submit", "slim.robench", "--name", "mine", "--by", "Ada")
    assert "which is no bundled model" in refused("submit", "net.robench", "--name", "mine", "--by", "Ada")
