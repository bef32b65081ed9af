"""Attacks of other people's libraries, by the command line."""

import json


def test_an_attack_of_foolbox_by_its_name(robench):
    told = robench(
        *("evaluate", "digits-nat", "--threat", "linf:0.1", "--examples", "20"),
        *("--attack", "foolbox:LinfFastGradientAttack", "--json", "s.json", "--run", "r.robench"),
    )
    assert told.code == 0, told.err
    with open("s.json") as f:
        (threat,) = json.load(f)["threats"]
    assert threat["broken"] > 5
    assert threat["wrong"] + threat["broken"] + threat["standing"] == 20
    (attack,) = threat["attacks"]
    assert attack["name"] == "foolbox:LinfFastGradientAttack"
    assert attack["backwards"] == 20 - threat["wrong"]
    assert 3 * attack["backwards"] <= attack["forwards"] <= 4 * attack["backwards"]
    assert "all hold" in robench("verify", "r.robench").out


def test_what_is_wrong_with_a_foreign_name_is_told_in_a_line(refused):
    question = "evaluate", "digits-nat", "--threat", "linf:0.1", "--attack"
    assert "did you mean foolbox:LinfFastGradientAttack" in refused(*question, "foolbox:LinfFastGradientAtack")
    assert "does not attack linf; it attacks l2" in refused(*question, "foolbox:DDNAttack")
    assert "there are random_start" in refused(*question, "foolbox:LinfFastGradientAttack(steps=3)")
