"""What a reader is cautioned about, and what gives no cause for it."""

from dataclasses import replace

import pytest
import torch

from robench.problem import cautions, datasets
from robench.problem.split import Split
from robench.problem.threats import parse

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.3, 4.0, -2.0], [-1.0, 0.0, 1.0]])


@pytest.mark.parametrize(
    ("outputs", "word"),
    [
        (LOGITS, ""),
        (LOGITS + 5, ""),
        (LOGITS.softmax(1), "probabilities"),
        (LOGITS.half().softmax(1), "probabilities"),
        (100 * LOGITS.softmax(1), "probabilities, not logits, in units of 1/100"),
        ((1000 * LOGITS).softmax(1), "saturated probabilities"),
        (LOGITS.sigmoid(), "sigmoid"),
        (torch.eye(3), "labels"),
        (torch.eye(3)[[0, 0, 0]], "labels"),
        (2 * torch.eye(3) - 1, "labels"),
        (LOGITS * torch.nan, ""),
        (torch.zeros(3, 3), ""),
    ],
)
def test_outputs_that_are_no_logits_are_recognised(outputs, word):
    text = cautions.of_outputs(outputs)
    assert bool(text) == bool(word)
    assert word in text
    assert not cautions.of_logarithms(outputs)


def test_log_probabilities_are_remarked_without_a_caution():
    logarithms = LOGITS.log_softmax(1)
    assert "log-probabilities" in cautions.of_logarithms(logarithms)
    assert not cautions.of_outputs(logarithms)
    assert not cautions.of_logarithms(LOGITS)
    assert not cautions.of_logarithms(LOGITS * torch.nan)


@pytest.mark.parametrize(
    ("labels", "classes", "words"),
    [
        ([0] * 40, 10, "the 40 examples show 1 of 10 classes"),
        ([0] * 20 + [1] * 20, 10, "in class order"),
        ([0, 1] * 20, 10, "2 of 10 classes"),
        ([3] * 6, 10, "1 of 10"),
        (list(range(10)) * 4, 10, ""),
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 7, 6], 10, ""),  # a random dozen shows nine or fewer more often than not
        ([0, 0], 10, ""),
        ([0] * 99 + [1], 2, ""),
        (list(range(50)), 1000, ""),
        (list(range(10)) * 20, 1000, "10 of 1000"),
    ],
)
def test_examples_of_few_classes_are_named_and_small_samples_are_not(labels, classes, words):
    text = cautions.of_classes(torch.tensor(labels), classes)
    assert bool(text) == bool(words)
    assert words in text


def test_the_chance_of_few_classes_is_that_of_counting_every_draw():
    n, k = 4, 3
    draws = torch.cartesian_prod(*[torch.arange(k)] * n)
    shown = torch.tensor([len(row.unique()) for row in draws])
    for at_most in range(k + 1):
        exact = (shown <= at_most).double().mean().item()
        assert cautions._probability_of_so_few(n, k, at_most) == pytest.approx(exact)


def test_an_accuracy_is_measured_against_the_commonest_label():
    y = torch.tensor([0] * 90 + [1] * 10)
    assert "class 0, which is correct on 90.0%" in cautions.of_accuracy(90, y, 2)
    assert "90.0%" in cautions.of_accuracy(70, y, 2)
    assert not cautions.of_accuracy(91, y, 2)
    assert not cautions.of_accuracy(20, torch.arange(10).repeat(10), 10), "no label is commoner than another"


@pytest.mark.parametrize(
    ("threat", "words"),
    [
        ("linf:0.3", ""),
        ("linf:0.49", ""),
        ("linf:0.5", "the same grey"),
        ("linf:1", "any image may become any other"),
        ("linf:8", "8/255, not 8"),
        ("l2:13.9", ""),
        ("l2:14", "the same grey"),
        ("l2:28", "any image"),
        ("l1:100", ""),
        ("l1:392", "the same grey"),
        ("l1:784", "any image"),
        ("rt:3px,30deg", ""),
        ("rt:28px,0deg", "any image"),
    ],
)
def test_a_radius_as_large_as_the_box_is_named(threat, words):
    text = cautions.of_threat(parse(threat), (1, 28, 28))
    assert bool(text) == bool(words)
    assert words in text


def test_a_mixture_whose_parts_are_not_attacked_names_them():
    mixture, linf, l1 = (parse(text) for text in ("affine:linf:0.3+l1:10", "linf:0.3", "l1:10"))
    assert cautions.of_parts([mixture, l1, linf]) == ""
    assert cautions.of_parts([linf, l1]) == ""
    assert "add --threat linf:0.3 --threat l1:10, or" in cautions.of_parts([mixture])
    assert "add --threat l1:10, or" in cautions.of_parts([linf, mixture, parse("l1:12")])
    moved = parse("affine:linf:0.3+rt:3px,30deg")
    assert "add --threat rt:3px,30deg, or" in cautions.of_parts([moved, linf])
    assert cautions.of_parts([moved, mixture]).count("; ") == 1


def test_training_images_are_named_with_the_card_and_without():
    train, test = (Split(f"digits:{part}", *_few()) for part in ("train", "test"))
    assert "according to its card" in cautions.of_training(train, cautions.Trained("digits"))
    assert "these are training images" in cautions.of_training(train, cautions.Trained("mnist"))
    assert "these are training images" in cautions.of_training(train, cautions.Trained(""))
    assert not cautions.of_training(test, cautions.Trained("digits"))


def test_a_model_trained_on_test_images_is_named_when_it_is_measured_on_them():
    test, held_out = Split("digits:test", *_few()), Split("my.npz:held-out", *_few())
    assert "so the number says nothing about others" in cautions.of_training(test, cautions.Trained("digits:test"))
    assert not cautions.of_training(test, cautions.Trained("digits:train"))
    assert not cautions.of_training(test, cautions.Trained("mnist:test"))
    assert not cautions.of_training(held_out, cautions.Trained("my.npz:held-out")), (
        "such a card names what was held out"
    )


def test_images_that_the_training_held_out_are_named_as_such():
    train = datasets.load("digits:train")

    def said(text, data="digits", without=30, sha256=train.sha256):
        return cautions.of_training(train.part(text), cautions.Trained(data, without, sha256))

    assert "was trained without these images" in said("held-out:30")
    assert "was trained without these images" in said("held-out:29")
    assert "was trained on 1 of these 31 images" in said("held-out:31")
    assert "was trained on these images; measure it on digits:test" in said("held-out:30", without=0)
    assert "was trained on these images" in said("held-out:30", sha256="of other images under this name")
    for more in (-5, len(train), 10**18):
        assert "was trained on these images" in said("5", without=more)
    assert "these are training images" in said("held-out:30", data="mnist")


def test_the_images_held_out_of_an_undivided_file_are_named_as_such():
    rest = replace(datasets.load("digits:train"), name="my.npz:rest")
    trained = cautions.Trained("my.npz:held-out", 30, rest.sha256)
    assert "was trained without these images" in cautions.of_training(rest.part("held-out:30"), trained)
    assert "except for my.npz:held-out" in cautions.of_training(rest, trained._replace(without=0))


def test_the_extra_part_of_svhn_is_for_training_too():
    extra = Split("svhn:extra", *_few())
    assert "according to its card" in cautions.of_training(extra, cautions.Trained("svhn:extra"))
    assert "these are training images; a model" in cautions.of_training(extra, cautions.Trained("svhn"))
    assert "these are training images; a model" in cautions.of_training(extra, cautions.Trained(""))


def _few():
    split = datasets.load("digits").part("3")
    return split.x, split.y, split.numbers, split.classes
