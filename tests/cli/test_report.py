"""`robench report`, as it is typed."""

import csv
import io
import json
import shlex
import shutil

import msgspec
import pytest

from robench.cli import report
from robench.problem.checkpoints.cards import Claimed, read_card, write_card
from robench.problem.checkpoints.zoo import zoo_card

from ..evidence.records import elsewhere
from .conftest import files

pytestmark = pytest.mark.precision


@pytest.fixture
def pair(run, measured_too, folder):
    """Runs of two bundled models on the same twelve examples, in a.robench and b.robench, with summaries."""
    shutil.copy(run, folder / "a.robench")
    shutil.copy(folder / "s.json", folder / "a.json")
    for suffix in ("robench", "json"):
        shutil.copy(measured_too / f"digits-adv-linf.{suffix}", folder / f"b.{suffix}")
    return folder


def test_two_models_are_in_one_table_with_hours_from_their_cards(pair, robench):
    result = robench("report", "a.robench", "b.robench")
    assert (result.code, result.err) == (0, "")
    header, _, first, second = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in result.out.splitlines()[:4]
    )
    assert header == ["model", "clean", "linf:0.1", "l2:1", "union", "average", "hours"]
    assert [first[0], second[0]] == ["digits-nat", "digits-adv-linf"]
    minutes = [read_card(zoo_card(name)).minutes for name in ("digits-nat", "digits-adv-linf")]
    assert [float(first[-1]), float(second[-1])] == pytest.approx([m / 60 for m in minutes], abs=0.005)


def test_a_summary_file_gives_the_same_report_as_its_run(pair, robench):
    for words in ("", "--intervals --breakdown --together", "--format csv", "--format json", "--format latex"):
        by_runs = robench("report", "a.robench", "b.robench", *words.split())
        assert by_runs.code == 0
        assert robench("report", "a.json", "b.json", *words.split()).out == by_runs.out
        assert robench("report", "a.json", "b.robench", *words.split()).out == by_runs.out


def test_a_list_of_summaries_is_read_back(pair, robench):
    both = robench("report", "a.robench", "b.robench", "--format", "json").out
    (pair / "both.json").write_text(both)
    assert robench("report", "both.json", "--format", "json").out == both
    assert robench("report", "both.json").out == robench("report", "a.robench", "b.robench").out


def test_report_check_is_silent_if_the_file_is_up_to_date(pair, robench):
    for form in ("markdown", "latex", "html", "csv", "json"):
        words = ("report", "a.robench", "b.robench", "--format", form)
        (pair / "table").write_text(robench(*words).out)
        before = files(pair)
        result = robench(*words, "--check", "table")
        assert (result.code, result.out, result.err) == (0, "", "")
        assert files(pair) == before


def test_report_check_shows_the_differences_and_fails(pair, robench):
    printed = robench("report", "a.robench", "b.robench").out
    (pair / "table.md").write_text(printed.replace("| digits-nat ", "| digits-not "))
    result = robench("report", "a.robench", "b.robench", "--check", "table.md")
    assert result.code == 1
    lines = result.out.splitlines()
    assert lines[:2] == ["--- table.md", "+++ what the runs give"]
    changed = [line for line in lines[2:] if line[0] in "+-"]
    assert [line.split()[1] for line in changed] == ["digits-not", "digits-nat"]
    assert result.err == "table.md differs from what the runs give; write it again\n"


def test_report_check_detects_a_single_byte_and_shortens_long_diffs(pair, robench):
    printed = robench("report", "a.robench", "b.robench", "--format", "json").out
    (pair / "table").write_bytes(printed.replace("\n", "\r\n").encode())
    result = robench("report", "a.robench", "b.robench", "--format", "json", "--check", "table")
    assert (result.code, result.out) == (1, "they differ in line ends only\n")
    (pair / "table").write_bytes(b"\xff" + b"line\n" * 500)
    result = robench("report", "a.robench", "b.robench", "--check", "table")
    assert result.code == 1
    assert len(result.out.splitlines()) == 41
    assert result.out.splitlines()[-1].startswith("... and ")


def test_report_check_refuses_a_missing_file(pair, refused):
    assert "no.md cannot be compared: No such file or directory" in refused("report", "a.robench", "--check", "no.md")


def test_the_numbers_of_a_report_are_those_of_the_runs_in_every_form(pair, robench):
    summaries = [json.loads((pair / name).read_text()) for name in ("a.json", "b.json")]
    shares = [f"{100 * t['accuracy']:.1f}" for s in summaries for t in s["threats"]]
    rows = list(csv.DictReader(io.StringIO(robench("report", "a.robench", "b.robench", "--format", "csv").out)))
    assert [f"{100 * float(r['accuracy']):.1f}" for r in rows if ":" in r["threat"]] == shares
    for form in ("markdown", "latex", "html"):
        text = robench("report", "a.robench", "b.robench", "--format", form).out
        assert all(share in text for share in shares)


def test_runs_of_two_questions_are_two_tables_with_a_note(pair, robench):
    words = "evaluate digits-nat --protocol tiny.toml --quiet --examples 5 --run c.robench"
    assert robench(*shlex.split(words)).code == 0
    result = robench("report", "a.robench", "b.robench", "c.robench")
    assert result.code == 0
    assert result.err == "note: these runs answer 2 questions, so there is more than one table\n"
    assert result.out.count("| model ") == 2
    beside = robench("report", "a.robench", "b.robench", "c.robench", "--side-by-side")
    assert len([line for line in beside.out.splitlines() if line.startswith("|:-")]) == 1


def test_side_by_side_wants_two_questions(pair, refused):
    result = refused("report", "a.robench", "b.robench", "--side-by-side")
    assert "--side-by-side shows the answers to two questions; these runs answer one question" in result


@pytest.fixture
def own(pair, robench):
    """A card of one's own for each of two models: trained on linf:0.1, and on l2:1."""
    for name, threat in (("mine-linf", "linf:0.1"), ("mine-l2", "l2:1")):
        card = read_card(zoo_card("digits-nat"))
        shutil.copy(zoo_card("digits-nat").with_suffix(".safetensors"), pair / f"{name}.safetensors")
        fields = {"name": name, "weights": f"{name}.safetensors", "minutes": 90.0, "settings": {"threats": [threat]}}
        write_card(pair / f"{name}.toml", type(card)(**{f: getattr(card, f) for f in card.__struct_fields__} | fields))
        words = f"evaluate {name}.safetensors --protocol tiny.toml --quiet --run {name}.robench"
        assert robench(*shlex.split(words)).code == 0
    return pair


def test_named_cards_give_opt_and_hours(own, robench):
    runs = ("report", "mine-linf.robench", "mine-l2.robench")
    assert "OPT" not in robench(*runs).out
    result = robench(*runs, "--card", "mine-linf.toml", "--card", "mine-l2.toml").out
    assert "| OPT " in result
    assert "OPT, without a trade-off: mine-linf on linf:0.1, mine-l2 on l2:1;" in result
    assert result.count(" 1.50 |") == 2


def test_a_run_is_reported_while_it_is_written(own, robench):
    idle = robench("report", "mine-linf.robench")
    process = elsewhere(
        "with run.writing(): pass\nprint('there', flush=True); input(); run.close()", "mine-linf.robench"
    )
    assert process.stdout.readline() == "there\n"
    result = robench("report", "mine-linf.robench")
    process.communicate("go on\n")
    assert (result.code, result.out) == (0, idle.out)
    assert "note: mine-linf.robench is being written; this is what it holds so far" in result.err
    assert "being written" not in idle.err


def test_a_claim_of_a_bundled_model_is_found_where_the_run_names_its_file(robench, folder, monkeypatch):
    card = read_card(zoo_card("digits-nat"))
    claims = {"ours": Claimed(source="Ours 2020", threats=("linf:0.1",), accuracy={"clean": 0.99})}
    monkeypatch.setattr(report, "read_card", lambda path: msgspec.structs.replace(card, claimed=claims))
    weights = zoo_card("digits-nat").with_suffix(".safetensors")
    words = ("--threat", "linf:0.1", "--attack", "pgd(steps=2)", "--examples", "10", "--run", "n.robench")
    assert robench("evaluate", weights, *words).code == 0
    assert "Published: Ours 2020." in robench("report", "n.robench", "--claimed").out
    shutil.copy(weights, folder / "digits-nat.safetensors")  # the name alone proves nothing
    own = ("digits-nat.safetensors", "--arch", "digits-cnn", "--data", "digits")
    assert robench("evaluate", *own, *words[:-1], "o.robench").code == 0
    assert "Ours 2020" not in robench("report", "o.robench", "--claimed").out


def test_claimed_accuracies_are_beside_measured_ones(own, robench):
    path = own / "mine-linf.toml"
    about = '\n[claimed.ours]\nsource = "Ours 2020, Table 1"\nthreats = ["l2:1", "linf:0.1"]\n'
    path.write_text(path.read_text() + about + "[claimed.ours.accuracy]\nclean = 0.99\nunion = 0.99\n")
    summary = json.loads(robench("report", "mine-linf.robench", "--format", "json").out)
    clean, union = summary["clean"]["accuracy"], summary["union"]["accuracy"]
    command = ("report", "mine-linf.robench", "mine-l2.robench", "--card", "mine-linf.toml")
    result = robench(*command, "--claimed").out
    assert f"| mine-linf | 99.0 → {100 * clean:.1f} | 99.0 → {100 * union:.1f} ≠ |" in result
    assert "Published: Ours 2020, Table 1." in result
    assert "≠" not in robench(*command).out
    assert "Ours 2020" in robench(*command, "--claimed", "--format", "latex").out
    assert robench(*command, "--claimed", "--format", "csv").code == 2


def test_a_claim_about_other_threats_is_left_out(own, robench):
    path = own / "mine-linf.toml"
    about = '\n[claimed.ours]\nsource = "Ours 2020"\nthreats = ["linf:0.1"]\n[claimed.ours.accuracy]\nclean = 0.99\n'
    path.write_text(path.read_text() + about)
    result = robench("report", "mine-linf.robench", "--card", "mine-linf.toml", "--claimed")
    assert "Ours" not in result.out
    assert "note: no card of these models claims anything under linf:0.1, l2:1" in result.err


def test_a_claim_without_a_source_is_one_clear_line(own, refused):
    path = own / "mine-linf.toml"
    path.write_text(path.read_text() + "\n[claimed.ours]\nthreats = []\n")
    result = refused("report", "mine-linf.robench", "--card", "mine-linf.toml", "--claimed")
    assert "the card mine-linf.toml cannot be read" in result
    assert "source" in result


def test_a_card_of_a_model_without_a_run_is_refused(own, refused):
    result = refused("report", "a.robench", "b.robench", "--card", "mine-l2.toml")
    assert "mine-l2.toml is the card of mine-l2, which none of these runs is about; leave it out" in result


def test_a_file_that_is_neither_a_run_nor_a_summary_is_one_line(pair, refused):
    (pair / "list.json").write_text('[{"schema": 1}]')
    (pair / "cut.json").write_text((pair / "a.json").read_text()[:500])
    (pair / "bytes.json").write_bytes(b'{"schema": "\xff"}')
    (pair / "words.txt").write_text("hello")
    for name in ("list.json", "cut.json", "bytes.json"):
        assert f"{name}: this is not a summary file" in refused("report", name)
    assert "words.txt is not a robench run file" in refused("report", "words.txt")
    assert "there is no run file no.robench" in refused("report", "no.robench")
    assert "is not a file" in refused("report", ".")


def test_a_summary_that_contradicts_itself_is_refused(pair, refused):
    file = json.loads((pair / "a.json").read_text())
    file["threats"][0]["broken"] += 1
    (pair / "a.json").write_text(json.dumps(file))
    result = refused("report", "a.json")
    assert "a.json: this summary file is damaged: the outcomes of linf:0.1 do not fit its counts" in result


def test_a_truncated_run_file_is_named(pair, refused):
    whole = (pair / "a.robench").read_bytes()
    (pair / "a.robench").write_bytes(whole[: len(whole) // 2])
    assert "a.robench" in refused("report", "a.robench", "b.robench")


@pytest.mark.parametrize("threats", [7, 0.5, "linf:0.1", [["linf:0.1"]]])
def test_a_card_whose_threats_are_no_list_of_texts_is_refused(run, refused, folder, threats):
    card = read_card(zoo_card("digits-nat"))
    write_card(folder / "x.toml", msgspec.structs.replace(card, settings={**card.settings, "threats": threats}))
    assert "as threats of its training, and no list of texts" in refused("report", "r.robench", "--card", "x.toml")
