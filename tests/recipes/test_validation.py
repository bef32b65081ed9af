"""Images kept out of a training: the same ones always, never trained on, and looking at them changes nothing."""

from pathlib import Path

import pytest
import torch
from torch import nn

from robench.errors import UserError
from robench.problem.cautions import boundless
from robench.problem.checkpoints import load
from robench.problem.split import Split
from robench.problem.subsets import held_out
from robench.problem.threats import parse
from robench.recipes import configure
from robench.recipes.adversarial import TrainingStep
from robench.recipes.making import Order, make
from robench.recipes.training import TrainingData
from robench.recipes.validation import CHECKS, Validation, ValidationCheck, overfitting_warning

from .test_recipes import CPU, LEARNT, Silent, blobs, mlp, training_of


def test_held_out_images_are_never_trained_on_and_the_others_keep_their_order_and_noise():
    split = blobs(100)
    without = held_out(100, 30)
    assert len(without) == 30
    assert held_out(100, 10) < without, "more are these and others"
    all_, rest = (TrainingData.of(split, 10, 3, CPU, without=w) for w in (frozenset(), without))
    assert (all_.batches, rest.batches) == (10, 7)
    for epoch in range(2):
        keys = torch.cat([all_.at(epoch * 10 + place).keys for place in range(10)]).tolist()
        left = torch.cat([rest.at(epoch * 7 + place).keys for place in range(7)]).tolist()
        assert left == [key for key in keys if key in set(left)]
        x = torch.cat([rest.at(epoch * 7 + place).x for place in range(7)])
        assert not any((x == split.x[row]).flatten(1).all(dim=1).any() for row in without)
        assert len(set(left)) == 70


@pytest.mark.costly
@pytest.mark.parametrize("name", ["nat", "max", "spatial_at", "eat", "mng_ac"])
def test_checking_held_out_images_changes_no_weight(name, tmp_path):
    threats, split, without = tuple(map(parse, LEARNT[name])), blobs(256), held_out(256, 40)
    climbs = name not in ("nat", "spatial_at")
    recipe = configure(name, "blobs", {"steps": 6, "batch": 32, **({"inner_steps": 2} if climbs else {})})
    ended, checks = [], []
    for number, watched in enumerate((False, True)):
        (tmp_path / str(number)).mkdir()
        torch.manual_seed(0)
        module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 2))
        training, _ = training_of(module, split, tmp_path / str(number))
        if watched:
            Validation.of(recipe, threats, training, split.take(sorted(without)), checks.append)
        recipe.train(training, TrainingData.of(split, 32, 0, CPU, without=without), threats)
        ended.append(module.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ended[0].values(), ended[1].values(), strict=True))
    assert [check.step for check in checks] == [1, 2, 3, 4, 5, 6]


@pytest.mark.costly
def test_a_check_gives_clean_and_robust_accuracy_and_the_training_accuracy_since_the_last_check(tmp_path):
    module, split, held = mlp(), blobs(256), blobs(200).take(range(150, 200))
    threats = tuple(map(parse, ("linf:0.1", "l2:0.2")))
    configure("nat", "blobs", {"steps": 60, "lr": 1e-2}).train(*training_of(module, split, tmp_path), ())
    recipe = configure("max", "blobs", {"steps": 100, "batch": 25, "inner_steps": 10})
    training, _ = training_of(module, split, tmp_path)
    reported = []
    validation = Validation.of(recipe, threats, training, held, reported.append)
    for step in range(1, 101):
        validation.step(step, 100, 1.0, step / 100)
    assert [check.step for check in reported] == list(range(5, 101, 5))
    assert len(reported) == CHECKS
    torch.testing.assert_close([check.trained for check in reported[:2]], [0.03, 0.08])
    assert len({check[1:3] for check in reported}) == 1, "the same net, the same noise: the same answer"
    clean = (module(held.x).argmax(dim=1) == held.y).float().mean().item()
    assert reported[0].clean == pytest.approx(clean)
    images = validation.images
    now = TrainingStep(module.eval(), images, threats, 0.0, {})
    right = [module(x).argmax(dim=1) == held.y for x in (held.x, *(recipe.images(now, threat) for threat in threats))]
    assert reported[0].robust == pytest.approx(torch.stack(right).all(dim=0).float().mean().item())
    assert 0.1 < reported[0].robust < min(float(right[place].float().mean()) for place in (0, -1)), "not the last alone"
    assert validation.checks[:, 0].tolist() == [check.step for check in reported]


def test_an_image_stands_a_check_only_under_every_threat_and_every_transform(tmp_path):
    """Six classes of a linear model, which for some images a few transforms change, and a small ball for others."""
    images = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(3)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 6))
    labels = module(images).argmax(dim=1)
    held = Split.whole("toy", images, labels, 6)
    recipe = configure("max", "blobs", {"batch": 200, "inner_steps": 10, "transforms": 4})
    threats = parse("rt:1px,5deg"), parse("linf:0.03")
    seen, singly = {}, {}
    for chosen in (threats, threats[:1], threats[1:]):
        training, _ = training_of(module, held, tmp_path)
        seen[chosen] = Validation.of(recipe, chosen, training, held, print).check_held_out(1).robust
    batch = Validation.of(recipe, threats, training_of(module, held, tmp_path)[0], held, print).images
    moved = recipe.transformed(batch, threats[0])
    singly["rt"] = torch.stack([module(moved[:, k]).argmax(dim=1) == labels for k in range(4)]).all(dim=0)
    step = TrainingStep(module, batch, threats, 0.0, {})
    singly["linf"] = module(recipe.images(step, threats[1])).argmax(dim=1) == labels
    share = {name: stand.float().mean().item() for name, stand in singly.items()}
    both = (singly["rt"] & singly["linf"]).float().mean().item()
    assert seen[threats[:1]] == pytest.approx(share["rt"])
    assert seen[threats[1:]] == pytest.approx(share["linf"])
    highest = module(recipe.images(step, threats[0])).argmax(dim=1) == labels
    assert highest.float().mean() > share["rt"], "the highest loss is not always an error"
    assert seen[threats] == pytest.approx(both)
    assert 0 < both < min(share.values()), "neither threat decides alone"


def test_a_check_has_ten_steps_even_if_the_training_has_fewer(tmp_path):
    module, split, held = mlp(), blobs(256), blobs(200).take(range(150, 200))
    configure("nat", "blobs", {"steps": 60, "lr": 1e-2}).train(*training_of(module, split, tmp_path), ())
    few, ten = ({"inner_steps": steps, "inner_step_size": 2.5 / steps, "batch": 50} for steps in (1, 10))
    seen = []
    for settings in (few, ten):
        training, _ = training_of(module, split, tmp_path)
        recipe = configure("pgd_at", "blobs", settings)
        seen.append(Validation.of(recipe, (parse("l2:0.45"),), training, held, print).check_held_out(1).robust)
    images = Validation.of(recipe, (), training, held, print).images
    now = TrainingStep(module.eval(), images, (), 0.0, {})
    one_step = module(configure("pgd_at", "blobs", few).images(now, parse("l2:0.45"))).argmax(dim=1) == held.y
    assert seen[0] == seen[1] < one_step.float().mean()


@pytest.mark.parametrize(
    ("steps", "size", "wanted"), [(9, 0.3, (10, 0.25)), (10, 0.3, (10, 0.3)), (11, 0.2, (11, 0.2))]
)
def test_only_attacks_of_fewer_than_ten_steps_are_lengthened(steps, size, wanted, tmp_path):
    recipe = configure("pgd_at", "blobs", {"inner_steps": steps, "inner_step_size": size, "batch": 50})
    training, _ = training_of(mlp(), blobs(256), tmp_path)
    checked = Validation.of(recipe, (), training, blobs(50), print).recipe
    assert (checked.inner_steps, checked.inner_step_size) == wanted


def a_look(step, robust, trained):
    return ValidationCheck(step, 0.99, robust, trained, "")


def test_a_drop_on_held_out_images_while_training_accuracy_rises_is_overfitting():
    def reported(robust, trained, n=200):
        checks = torch.tensor([[100, 0.9, 0.30, 0.40], [200, 0.95, 0.60, 0.70]], dtype=torch.float64)
        return overfitting_warning(checks, a_look(300, robust, trained), n)

    assert "from step 200 to 300 robust accuracy dropped from 60.0% to 20.0%" in reported(0.2, 0.95)
    assert reported(0.2, 0.95).count("rose from 70.0% to 95.0%") == 1
    assert "from step 100 to 300" in reported(0.1, 0.5), "against an earlier look, if training fell since the last"
    assert reported(0.2, 0.35) == "", "both fell: that is something else"
    assert reported(0.55, 0.95) == "", "less than two standard errors of 200 images"
    assert reported(0.55, 0.95, n=2000) != ""
    assert reported(0.7, 0.95) == ""
    assert overfitting_warning(torch.zeros(0, 4), a_look(1, 0.5, 0.5), 100) == ""
    assert overfitting_warning(torch.tensor([[1, 0.9, -1.0, 0.5]]), ValidationCheck(2, 0.9, None, 0.9, ""), 100) == ""


def an_order(tmp_path, name="nat", threats=(), **more):
    settings = {"steps": 4, "batch": 16}
    return Order(configure(name, "toy", settings), threats, "toy", "digits-cnn", 0, tmp_path / "m", "", **more)


def toy(classes=10):
    x = torch.rand(80, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    return Split.whole("toy:train", x, torch.arange(80) % classes, 10)


def test_the_card_has_the_last_check_of_the_held_out_images(tmp_path):
    checks = []
    card = make(an_order(tmp_path, validation=20), toy(), CPU, Silent(), checks.append)
    assert card.validation == {"examples": 20, "clean": checks[-1].clean}
    assert card.settings["validation"] == 20
    order = an_order(tmp_path, "pgd_at", (parse("linf:0.1"),), validation=20, restarted=True)
    card = make(order, toy(), CPU, Silent(), checks.append)
    assert card.validation == {"examples": 20, "clean": checks[-1].clean, "robust": checks[-1].robust}
    whole = make(an_order(tmp_path, restarted=True), toy(), CPU, Silent())
    assert whole.validation == {}
    assert {"validation", "precision", "bn_train_attack"} & {*whole.settings} == set()
    assert order.identity.endswith("seed 0, validation=20")


def test_training_in_bfloat16_keeps_float32_weights_that_every_pass_sees(tmp_path):
    (tmp_path / "exact").mkdir()
    exact = make(an_order(tmp_path / "exact"), toy(), CPU, Silent())
    rough = make(an_order(tmp_path, precision="bfloat16"), toy(), CPU, Silent())
    assert rough.settings["precision"] == "bfloat16"
    one, other = (load(str(p / "m.safetensors")).classifier.module for p in (tmp_path / "exact", tmp_path))
    pairs = list(zip(one.parameters(), other.parameters(), strict=True))
    assert all(b.dtype == torch.float32 for _, b in pairs)
    assert any((b != b.bfloat16().float()).any() for _, b in pairs), "weights are not rounded themselves"
    assert exact.sha256 != rough.sha256
    torch.manual_seed(0)
    fresh = type(one)((1, 28, 28), 10)
    for (a, b), begun in zip(pairs, fresh.parameters(), strict=True):
        moved = (a - begun).norm()
        assert moved > 0
        assert (a - b).norm() < 0.5 * moved, "four steps lead to about the same place"


@pytest.mark.parametrize(
    ("text", "too_much"),
    [
        *[("linf:1", True), ("linf:0.99", False), ("l2:28", True), ("l2:27.9", False), ("l1:784", True)],
        *[("l1:783", False), ("rt:28px,0deg", True), ("rt:3px,30deg", False)],
    ],
)
def test_a_limit_that_lets_any_image_become_any_other_is_refused(text, too_much, tmp_path):
    assert boundless(parse(text), (1, 28, 28)) is too_much
    if too_much:
        order = an_order(tmp_path, "spatial_at" if text.startswith("rt") else "pgd_at", (parse(text),))
        with pytest.raises(UserError, match="any image may become any other"):
            make(order, toy(), CPU, Silent())


def test_too_many_held_out_images_are_refused(tmp_path):
    with pytest.raises(
        UserError, match="10 examples beside the 70 held out, fewer than one batch of 16; hold out fewer"
    ):
        make(an_order(tmp_path, validation=70), toy(), CPU, Silent())


def test_images_of_one_class_are_refused(tmp_path):
    with pytest.raises(UserError, match="all of one class"):
        make(an_order(tmp_path), toy(classes=1), CPU, Silent())
    assert not (tmp_path / "m.safetensors").exists()
    assert isinstance(an_order(tmp_path).state, Path)


def test_a_training_from_a_model_begins_with_its_weights(tmp_path):
    make(an_order(tmp_path), toy(), CPU, Silent())
    begun = load(str(tmp_path / "m.safetensors")).classifier
    further = Order(
        *(configure("nat", "toy", {"steps": 1, "batch": 16, "lr": 1e-6}), (), "toy", "digits-cnn", 5),
        *(tmp_path / "further", ""),
        start=str(tmp_path / "m.toml"),
    )
    card = make(further, toy(), CPU, Silent())
    ended = load(str(tmp_path / "further.safetensors")).classifier
    for a, b in zip(begun.module.parameters(), ended.module.parameters(), strict=True):
        assert 0 < (a - b).abs().max() < 2e-6
    assert card.settings["start"].startswith(f"{tmp_path / 'm.toml'} (")
    assert card.settings["start"] in further.identity
