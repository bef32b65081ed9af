"""Models that answer at random: what is asked of them, what is believed, and that all of it repeats."""

import json
import math
import random
from dataclasses import dataclass, replace
from statistics import NormalDist

import msgspec
import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import nn

from robench.errors import UserError
from robench.evaluation.planning import make_plan, refuse_other_noise
from robench.evaluation.progress import Silence
from robench.evaluation.runner import Evaluation
from robench.evidence.referee import LEVEL, PASSES, Predictions, Referee, failures_needed
from robench.evidence.store import RunFile
from robench.problem import datasets
from robench.problem.randomness import reseed, seeded
from robench.problem.split import Split
from robench.problem.threats import parse
from robench.protocols import AttackChoice, Protocol, ThreatChoice, load
from robench.search.attack import Seen
from robench.search.attacks.apgd import APGD
from robench.search.attacks.pgd import PGD
from robench.search.attacks.square import Square
from robench.search.engine.eot import AveragedAnswers, averaged

from .cli.conftest import folder, robench, small_batches  # noqa: F401  fixtures
from .exact_distances import SHAPE, Linear, classifier, toy
from .search.running import ends, items, job

pytestmark = pytest.mark.precision
GREY = 0.5
SIGMA = 0.1
ANYWHERE = parse("linf:1")


class Noisy(Linear):
    """Two classes, Gaussian noise on every pixel: the probability of a mistake is known."""

    def __init__(self, seed=0, once=False):
        super().__init__(2, seed=seed)
        self.once = once  # one draw for all rows of a batch
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x + SIGMA * torch.randn(x[:1].shape if self.once else x.shape))

    def failing(self, x, y):
        """How probably an answer is not y."""
        across = (self.weight[1] - self.weight[0]).detach().double()
        gap = (x.flatten(1).double() - GREY) @ across * (1 - 2 * y)
        return [NormalDist().cdf(float(g / (SIGMA * across.norm()))) for g in gap]

    def at(self, *chances):
        """Images of class 0 that are mistaken with these probabilities."""
        across = (self.weight[1] - self.weight[0]).detach()
        along = torch.tensor([SIGMA * NormalDist().inv_cdf(chance) for chance in chances])
        x = GREY + (along[:, None] * across / across.norm()).view(-1, *SHAPE)
        return x, torch.zeros(len(chances), dtype=torch.long)


class Jittery(Linear):
    """Two classes, Gaussian noise on the weights: gradients point anywhere, and most answers are right exactly where
    the mean ones are.
    """

    def forward(self, x):
        flat = x.flatten(1) - GREY
        noise = 3 * torch.randn(len(flat), *self.weight.shape)
        return torch.einsum("bkd,bd->bk", self.weight + noise, flat)

    def images(self, n, distance):
        """Images of class 0 at this l2 distance from where half of the answers are wrong."""
        across = (self.weight[1] - self.weight[0]).detach()
        across = across / across.norm()
        g = torch.Generator().manual_seed(1)
        aside = 0.05 * torch.randn(n, len(across), generator=g)
        flat = GREY + aside - (aside @ across)[:, None] * across - distance * across
        return Split.whole("toy:test", flat.view(-1, *SHAPE), torch.zeros(n, dtype=torch.long), 2)


def at_random(module):
    return Referee(classifier(module), PASSES)


def protocol(text, *attacks, eot=None):
    choices = tuple(AttackChoice(f"a{i}", attack) for i, attack in enumerate(attacks))
    return Protocol("tiny", "", "toy", None, 0, (ThreatChoice(parse(text), choices),), eot)


def prepared(run, module, split, question, seed=0, **more):
    model = classifier(module)
    plan = make_plan(model, split, question, seed=seed, every_attack=False, slots=8)
    return Evaluation(plan, question, model, Referee(classifier(module)), split, run, **more)


def answered(path, *question, **more):
    with RunFile.open(path) as run:
        return prepared(run, *question, **more).answer()


def evidence(path):
    with RunFile.read(path) as run:
        return run.plan(), run.evidence()


# The rule


@pytest.mark.parametrize("nth", [1, 2, 3, 10, 1000])
def test_as_many_failures_are_needed_as_the_exact_binomial_test_asks(nth):
    level = LEVEL / (nth * (nth + 1))
    needed = failures_needed(PASSES, nth)
    assert binom.sf(needed - 1, PASSES, 0.5) <= level < binom.sf(needed - 2, PASSES, 0.5)


def test_where_nothing_would_be_enough_more_are_needed_than_there_are():
    assert failures_needed(3) == 4  # 1/8 is no 1/40


def test_a_model_that_answers_the_same_need_fail_once():
    assert [failures_needed(1, nth) for nth in (1, 7)] == [1, 1]


def test_an_image_that_fails_half_of_the_time_is_seldom_believed_however_often_it_is_claimed():
    noise = np.random.default_rng(0)
    needed = np.array([failures_needed(PASSES, nth) for nth in range(1, 201)])
    failures = noise.binomial(PASSES, 0.5, size=(20_000, len(needed)))
    believed = (failures >= needed).any(axis=1).mean()
    assert 0.01 < believed < LEVEL
    assert (failures >= needed[0]).any(axis=1).mean() > 0.9, "without a correction nearly all would be"


def test_most_of_the_passes_on_a_clean_image_must_be_right():
    failures = torch.tensor([0, 49, 50, 51, 100])
    predictions = Predictions(torch.zeros(5, 2), torch.zeros(5), failures, PASSES)
    assert predictions.correct.tolist() == [True, True, False, False, False]
    once = Predictions(torch.zeros(2, 2), torch.zeros(2), torch.tensor([0, 1]), 1)
    assert once.correct.tolist() == [True, False]


# The referee


def test_images_that_fail_mostly_are_accepted_and_others_are_not():
    model = Noisy()
    x, y = model.at(*[0.4] * 8, *[0.9] * 8)
    assert model.failing(x, y) == pytest.approx([0.4] * 8 + [0.9] * 8, abs=1e-5)
    x = x + torch.arange(len(x)).view(-1, 1, 1, 1) * 1e-6  # each its own noise
    decisions = at_random(model).judge(ANYWHERE, x, y, x)
    assert [r.accepted for r in decisions] == [False] * 8 + [True] * 8
    assert {r.passes for r in decisions} == {PASSES}
    assert "of 100 passes fail and 61 are needed to tell that most do" in decisions[0].reason


def test_what_is_heard_is_what_the_closed_form_says():
    model = Noisy()
    x, y = model.at(*[0.3] * 20)
    x = x + torch.arange(len(x)).view(-1, 1, 1, 1) * 1e-6
    predictions = at_random(model).predict(x, y)
    assert abs(predictions.failures.sum().item() / 2000 - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 2000)
    across = (model.weight[1] - model.weight[0]).norm().item()
    wanted = SIGMA * across * NormalDist().inv_cdf(0.3)
    assert abs(predictions.margin.mean().item() - wanted) < 4 * SIGMA * across / math.sqrt(2000)


def test_every_pass_draws_anew_although_the_model_draws_once_for_a_batch():
    x, y = Noisy().at(*[0.5] * 8)
    x = x + torch.arange(len(x)).view(-1, 1, 1, 1) * 1e-6
    failures = at_random(Noisy(once=True)).predict(x, y).failures
    assert ((failures - 50).abs() < 20).all()
    assert len(set(failures.tolist())) > 1, "and for every image"


def test_the_noise_of_an_image_comes_again_in_any_company_and_leaves_that_of_the_process_alone():
    x, y = Noisy().at(0.2, 0.5, 0.6)
    together = at_random(Noisy()).predict(x, y)
    torch.manual_seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    alone = at_random(Noisy()).predict(x[[2]], y[[2]])
    assert torch.equal(alone.logits[0], together.logits[2])
    assert alone.failures[0] == together.failures[2]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_models_may_draw_from_numpy_and_python():
    class Elsewhere(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :2] + np.random.rand() + torch.tensor([0.0, random.random()])

    x, y = Noisy().at(0.2, 0.5)
    referee = at_random(Elsewhere())
    assert referee.answers_at_random(x)
    assert torch.equal(referee.predict(x, y).logits, referee.predict(x, y).logits)


def test_seeds_give_the_same_numbers_and_are_gone_afterwards():
    with seeded(3, torch.device("cpu")):
        first = torch.rand(2)
        reseed(3, torch.device("cpu"))
        assert torch.equal(torch.rand(2), first)
    assert not torch.equal(torch.rand(2), first)


# The search


def test_answers_are_averaged_and_failures_counted():
    logits = [[[3.0, 0, 0]], [[0.0, 1, 0]], [[0.0, 0, 2]], [[math.nan, 0, 0]]]
    passes = iter(torch.tensor(row) for row in logits)

    def ask():
        row = next(passes)
        return row, Seen(row, row[:, 1], row[:, :, None, None])

    average = averaged(ask, 3, torch.tensor([0]))
    assert average.answers.logits.tolist() == [[1.0, pytest.approx(1 / 3), pytest.approx(2 / 3)]]
    assert average.answers.loss.tolist() == [pytest.approx(1 / 3)]
    assert average.answers.grad.flatten().tolist() == pytest.approx([1, 1 / 3, 2 / 3])
    assert average.margin.tolist() == [0.0]  # of -3, 1 and 2; that of the mean logits is -1/3
    assert (average.fooled.tolist(), average.fools().tolist()) == ([2], [True])
    assert (average.fools(every_pass=True).tolist(), average.certain().tolist()) == ([False], [False])

    passes = iter(torch.tensor([row for _ in range(2)])[:, None] for row in logits[::-1])  # one lane, two images each
    labels = averaged(lambda: ((row := next(passes)[:, 0].transpose(0, 1)), row.argmax(dim=2)), 4, torch.tensor([0]))
    assert labels.answers.shape == (1, 2)
    assert labels.fooled.tolist() == [2, 2], "NaN fools nobody"
    assert labels.margin.isnan().all()


def test_more_than_half_of_the_passes_must_fail_in_a_search_and_all_of_ten_end_it():
    four, ten = (AveragedAnswers(torch.zeros(5, 2), torch.zeros(5), torch.tensor([0, 1, 2, 3, n]), n) for n in (4, 10))
    assert four.fools().tolist() == [False, False, False, True, True]
    assert four.fools(every_pass=True).tolist() == [False, False, False, False, True]
    assert not four.certain().any()
    assert ten.certain().tolist() == [False, False, False, False, True]


def broken(attack, radius, eot, n=20, seed=0):
    """On how many images at distance 0.1 the referee accepts what the attack finds within this radius."""
    model, threat = classifier(Jittery()), parse(f"l2:{radius}")
    split = model.module.images(n, 0.1)
    search = replace(job(threat, attack, items(model, attack, split, range(n))), eot=eot)
    with seeded(seed, torch.device("cpu")):
        finds = [(end.item.row, end.x_adv) for end in ends(model, split, search, slots=n) if end.x_adv is not None]
    if not finds:
        return 0
    rows = [row for row, _ in finds]
    decisions = Referee(model, PASSES).judge(threat, split.x[rows], split.y[rows], torch.stack([x for _, x in finds]))
    return sum(decision.accepted for decision in decisions)


@pytest.mark.costly
@pytest.mark.parametrize("attack", [PGD(steps=12, step_size=0.2), Square(steps=50)])
def test_an_attack_that_averages_beats_one_that_does_not(attack):
    averaging = broken(attack, 0.6, eot=20)
    alone = sum(broken(attack, 0.6, eot=1, seed=seed) for seed in range(4)) / 4  # one seed varies by two or three
    assert averaging > 12
    assert alone < 6


def test_nothing_is_broken_where_no_image_fails_most_of_the_time():
    assert broken(PGD(steps=15, step_size=0.2), 0.09, eot=20) == 0


def test_a_search_goes_on_until_all_passes_fail_and_every_pass_is_counted():
    model = classifier(Noisy())
    x, y = model.module.at(0.3, 0.01)
    split = Split.whole("toy:test", x, y, 2)
    attack = PGD(steps=4, step_size=1.0, random_start=False)

    def end(radius, row):
        search = replace(job(parse(radius), attack, items(model, attack, split, [row])), eot=20)
        (only,) = ends(model, split, search, slots=1)
        assert search.queries == only.forwards == only.backwards
        return only

    far, near, never = end("l2:1", 0), end("l2:0.06", 0), end("l2:0.001", 1)
    assert far.forwards < 100, "it stands where nothing is right: more search would find the same"
    assert far.x_adv is not None
    (chance,) = model.module.failing(near.x_adv[None], y[:1])
    assert chance == pytest.approx(NormalDist().cdf(NormalDist().inv_cdf(0.3) + 0.06 / SIGMA), abs=0.01)  # 53 %
    assert (near.forwards, never.forwards) == (100, 100)  # 5 visits, 20 passes
    assert never.x_adv is None


# A whole evaluation


@dataclass
class Told(Silence):
    """What the user was told; a plug that is pulled after so many looks."""

    notes: list[str]
    looks: int = 10**9

    def noted(self, text):
        self.notes.append(text)

    def moved(self, *_):
        self.looks -= 1
        if self.looks < 0:
            raise KeyboardInterrupt


def mixed():
    """Seven images: one wrong, some that fall, some that stand."""
    model = Noisy()
    x, y = model.at(0.9, *[0.3] * 3, *[1e-4] * 3)
    return model, Split.whole("toy:test", x + torch.arange(7).view(-1, 1, 1, 1) * 1e-6, y, 2)


QUESTION = protocol("l2:0.2", PGD(steps=6, step_size=0.3), APGD(steps=6))


def said(notes):
    """What is noted of the model's randomness: the toys here are mostly of one class, which is noted too."""
    return [note for note in notes if note.startswith("the model answers at random")]


def test_outcomes_are_those_of_the_closed_form(tmp_path):
    notes = []
    model, split = mixed()
    summary = answered(tmp_path / "r", model, split, QUESTION, progress=Told(notes))
    # Moved by 0.2, two noises, straight across: from 30 % to 93 % mistakes, from 0.01 % to 4 %.
    assert summary.threats[0].outcomes == "WBBBSSS"
    assert said(notes) == ["the model answers at random: judged over 100 passes, gradients averaged over 20"]
    assert summary.environment["randomness"] in notes
    plan, known = evidence(tmp_path / "r")
    assert (plan.passes, plan.eot, plan.precision) == (PASSES, 20, "float32")
    assert {v.passes for v in known.verdicts} == {PASSES}
    assert plan.threats[0].attacks[0].spec.endswith(") over 20 passes"), "a number of the attack, and so of its key"
    standing = [s for s in known.exhausted if s.example >= 4]
    assert {s.forwards for s in standing} == {7 * 20}


@pytest.mark.costly
def test_the_same_run_again_gives_the_same_evidence(tmp_path):
    model, split = mixed()
    for name in ("a", "b"):
        torch.manual_seed(ord(name))
        answered(tmp_path / name, model, split, QUESTION)
    (_, a), (_, b) = evidence(tmp_path / "a"), evidence(tmp_path / "b")
    assert (a.clean, a.claims, a.verdicts, a.exhausted) == (b.clean, b.claims, b.verdicts, b.exhausted)


@pytest.mark.costly
@pytest.mark.parametrize("looks", [0, 5])
def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path, looks):
    model, split = mixed()
    path = tmp_path / "r"
    with pytest.raises(KeyboardInterrupt):
        answered(path, model, split, QUESTION, progress=Told([], looks))
    before = evidence(path)[1]
    notes = []
    summary = answered(path, model, split, QUESTION, progress=Told(notes))
    after = evidence(path)[1]
    assert len(said(notes)) == 1
    assert summary.threats[0].outcomes == "WBBBSSS"
    assert after.clean == before.clean
    known = {c.example for c, v in before.judged() if v.accepted}
    assert [c for c in after.claims if c.example in known] == [c for c in before.claims if c.example in known]
    assert set(before.claims) <= set(after.claims)
    model.calls = 0
    again = answered(path, model, split, QUESTION)
    assert again.threats == summary.threats
    assert model.calls == 1, "the fingerprint alone: nothing is asked twice"


def test_every_further_claim_about_an_example_needs_more_failures(tmp_path):
    """At most 55 % of the passes fail anywhere, so claims are made and turned down again and again."""
    model = Noisy()
    x, y = model.at(*[0.3] * 4)
    radius = SIGMA * (NormalDist().inv_cdf(0.55) - NormalDist().inv_cdf(0.3))
    split = Split.whole("toy:test", x + torch.arange(4).view(-1, 1, 1, 1) * 1e-6, y, 2)
    attacks = [PGD(steps=steps, step_size=0.3) for steps in (3, 4)]
    answered(tmp_path / "r", model, split, protocol(f"l2:{radius:.6f}", *attacks))
    judged = list(evidence(tmp_path / "r")[1].judged())
    per_example = [[v for c, v in judged if c.example == e and not v.accepted] for e in range(4)]
    assert max(map(len, per_example)) > 2
    for verdicts in per_example:
        for nth, verdict in enumerate(verdicts, start=1):
            assert f"passes fail and {failures_needed(PASSES, nth)} are needed" in verdict.reason


def test_a_protocol_says_over_how_many_passes_answers_are_averaged(tmp_path):
    model, split = mixed()
    summary = answered(tmp_path / "r", model, split, replace(QUESTION, eot=5))
    assert evidence(tmp_path / "r")[0].eot == 5
    assert summary.environment["randomness"].endswith("averaged over 5")
    with pytest.raises(UserError, match="eot = 0 is no number of passes"):
        replace(QUESTION, eot=0)


def test_the_protocol_of_autoattack_for_random_models_is_that_of_its_authors():
    rand = load("autoattack-rand", "cifar10")
    assert rand.eot == 20
    for threat in rand.threats:
        assert [(a.attack.loss, a.attack.steps, a.attack.targets, a.restarts) for a in threat.attacks] == [
            ("cross-entropy", 100, 0, 1),
            ("dlr", 100, 0, 1),
        ]
        assert all(not a.attack.staged for a in threat.attacks if threat.threat.name == "l1")


def test_a_run_is_not_gone_on_with_where_the_noise_is_another(tmp_path):
    answered(tmp_path / "r", *mixed(), QUESTION)
    plan = evidence(tmp_path / "r")[0]
    refuse_other_noise(plan, "cpu", "r")
    with pytest.raises(UserError, match="its noise is another on cuda; go on with --device cpu"):
        refuse_other_noise(plan, "cuda:1", "r")
    refuse_other_noise(msgspec.structs.replace(plan, passes=1), "cuda:1", "r")


class Counting(Linear):
    calls = 0

    def forward(self, x):
        type(self).calls += 1
        return super().forward(x)


def test_of_a_model_that_answers_the_same_nothing_more_is_asked(tmp_path):
    class Searched(Counting):
        calls = 0

    class Judged(Counting):
        calls = 0

    split = toy(classifier(Linear()), n=30, edges=False)
    question = protocol("linf:0.0001", PGD(steps=3, random_start=False))
    with RunFile.open(tmp_path / "r") as run:
        model = classifier(Searched())
        plan = make_plan(model, split, question, seed=0, every_attack=False, slots=32, precision="float32")
        notes = []
        reported = Told(notes)
        summary = Evaluation(
            plan, question, model, Referee(classifier(Judged())), split, run, progress=reported
        ).answer()
    assert summary.threats[0].standing == 30
    assert Searched.calls == 1 + 7 + 20 + 4  # fingerprint; gradients and batches, tried once; differences; the search
    assert Judged.calls == 2 + 2  # two batches of clean images; eight images twice
    assert (plan.passes, plan.eot, notes) == (1, 1, [])
    assert summary.threats[0].attacks[0].forwards == 30 * 4
    assert "randomness" not in summary.environment


# Through the command line


NETWORK = """
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 5, stride=3)
        self.fc = nn.Linear(384, 10)

    def forward(self, x):
        return self.fc(F.dropout(F.relu(self.conv(x)), 0.3, training=True).flatten(1))
"""


@pytest.mark.costly
def test_dropout_that_stays_on_is_evaluated_reported_and_verified(folder, robench):  # noqa: F811
    (folder / "net.py").write_text(NETWORK)
    inside: dict = {}
    exec(NETWORK, inside)
    train = datasets.load("digits").part("0:200")
    torch.manual_seed(0)
    net = inside["Net"]()
    adam = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(40):
        adam.zero_grad()
        nn.functional.cross_entropy(net(train.x), train.y).backward()
        adam.step()
    torch.save(net.state_dict(), folder / "model.pt")
    words = "evaluate model.pt --data digits --arch net.py:Net --protocol tiny.toml --threat linf:0.1 --examples 6"
    words += " --run r.robench --json s.json"

    reported = robench(*words.split())
    assert reported.code == 0, reported.err
    assert "note: the model answers at random: judged over 100 passes, gradients averaged over 20" in reported.err
    summary = json.loads((folder / "s.json").read_text())
    assert summary["environment"]["randomness"].startswith("the model answers at random")
    assert summary["clean"]["accuracy"] > 0.5
    assert summary["union"]["open"] == 0
    assert summary["union"]["broken"] > 0

    report = robench("report", "r.robench")
    assert "The model answers at random: judged over 100 passes, gradients averaged over 20." in report.out
    verified = robench("verify", "r.robench", "--arch", "net.py:Net")
    assert verified.code == 0, verified.err
    assert "all hold" in verified.out

    again = robench(*words.split())
    assert again.code == 0, again.err
    assert json.loads((folder / "s.json").read_text())["threats"] == summary["threats"]
