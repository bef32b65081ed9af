from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from robench.errors import UserError
from robench.problem.split import Split, Undecoded
from robench.problem.subsets import Sample, held_out, wanted

SIZES = (500, 300, 150, 50)  # examples of each class, as uneven as SVHN's


@pytest.fixture
def split():
    """A thousand examples in class order."""
    y = torch.repeat_interleave(torch.arange(4), torch.tensor(SIZES))
    return Split.whole("toy:test", torch.rand(1000, 1, 2, 2), y, classes=4)


@pytest.mark.parametrize("text", ["random:200@3", "stratified:200@3"])
def test_a_sample_is_that_many_examples_in_increasing_order_and_the_same_every_time(split, text):
    numbers = split.part(text).numbers
    assert len(set(numbers)) == 200
    assert list(numbers) == sorted(numbers)
    assert split.part(text).numbers == numbers
    assert split.part(text).sha256 == split.part(text).sha256


def test_a_sample_is_the_one_it_was_in_every_version(split):
    assert split.part("random:5@3").numbers == (180, 358, 659, 688, 747)
    assert split.part("stratified:5@3").numbers == (180, 358, 688, 747, 823)


@pytest.mark.parametrize("kind", ["random", "stratified"])
def test_another_seed_chooses_others_and_no_seed_is_seed_0(split, kind):
    assert split.part(f"{kind}:200@4").numbers != split.part(f"{kind}:200@3").numbers
    assert split.part(f"{kind}:200").numbers == split.part(f"{kind}:200@0").numbers


@pytest.mark.parametrize("kind", ["random", "stratified"])
def test_a_larger_sample_contains_the_smaller_ones_of_its_seed(split, kind):
    samples = [set(split.part(f"{kind}:{count}@7").numbers) for count in (1, 10, 99, 100, 101, 1000)]
    assert all(small < large for small, large in pairwise(samples))


def test_every_class_of_a_stratified_sample_has_its_share_to_within_one_example(split):
    for count in (1, 7, 50, 333, 999):
        found = Counter(split.part(f"stratified:{count}@1").y.tolist())
        assert all(abs(found[label] - count * size / 1000) < 1 for label, size in enumerate(SIZES))


def test_a_random_sample_has_the_shares_only_on_average(split):
    found = [Counter(split.part(f"random:100@{seed}").y.tolist())[0] for seed in range(200)]
    assert len(set(found)) > 10
    assert sum(found) / 200 == pytest.approx(50, abs=1.5)  # standard error 0.34


def test_which_class_is_rounded_up_is_a_matter_of_the_seed_and_not_of_its_number():
    balanced = Split.whole("toy:test", torch.rand(100, 1, 2, 2), torch.arange(100) % 10, classes=10)
    taken = Counter(int(balanced.part(f"stratified:1@{seed}").y) for seed in range(300))
    assert len(taken) == 10
    assert max(taken.values()) < 60


def test_an_example_is_chosen_by_its_number_so_that_a_part_of_the_data_agrees_with_the_whole(split):
    part = split.take(range(0, 1000, 2))
    assert set(split.part("random:200@5").numbers) & set(part.numbers) <= set(part.part("random:200@5").numbers)


def test_images_that_are_decoded_on_access_are_sampled_without_decoding(split):
    decoded = []

    def decode(rows):
        decoded.extend(rows)
        return split.take(rows)

    source = Undecoded("toy", 1000, decode, labels=split.y.tolist())
    assert source.part("stratified:20@2").numbers == split.part("stratified:20@2").numbers
    assert len(decoded) == 20


def test_a_stratified_sample_needs_labels_that_are_known_before_decoding(split):
    source = Undecoded("toy", 1000, split.take)
    assert len(source.part("random:20")) == 20
    with pytest.raises(UserError, match="the labels of toy are not known before its images are read; use random:N"):
        source.part("stratified:20")


@pytest.mark.parametrize(
    "text",
    ["random", "random:", "random:x", "random:-5", "random:5@", "random:5@x", "random:5@-1", "stratified:5@1@2",
     "random:0", "stratified:1001", "random:5@1234567890", "sorted:5", "Random:5"],
)  # fmt: skip
def test_a_sample_that_cannot_be_read_or_is_too_large_is_quoted_in_the_error(split, text):
    with pytest.raises(UserError) as caught:
        split.part(text)
    assert str(caught.value).startswith(f"--examples {text}")
    assert "\n" not in str(caught.value)


def test_the_number_of_wanted_examples_is_known_in_advance_except_of_a_slice():
    assert [wanted(text) for text in ("100", "random:50", "stratified:60@4", "20:50")] == [100, 50, 60, None]


def test_a_sample_writes_itself_as_it_is_typed():
    assert str(Sample.parse("random:50")) == "random:50@0"
    assert Sample.parse(str(Sample("stratified", 60, 4))) == Sample("stratified", 60, 4)
    assert Sample.parse("20:50") is None


def test_images_held_out_are_those_that_a_training_leaves_out(split):
    train = replace(split, name="toy:train")
    assert train.part("held-out:40").numbers == tuple(sorted(held_out(1000, 40)))
    assert set(train.part("held-out:40").numbers) < set(train.part("held-out:50").numbers)
    assert replace(split, name="my.npz:rest").part("held-out:40").numbers == train.part("held-out:40").numbers
    assert replace(split, name="svhn:extra").part("held-out:40").numbers == train.part("held-out:40").numbers
    assert str(Sample.parse("held-out:40")) == "held-out:40"
    assert "--validation 40 or more" in Sample.parse("held-out:40").about


def test_images_held_out_are_the_ones_they_were_in_every_version():
    assert sorted(held_out(60_000, 6)) == [10678, 15479, 21567, 36044, 55074, 57327]


def test_other_data_have_no_images_held_out_and_no_seed_chooses_others(split):
    with pytest.raises(UserError, match=r"images of a training set, such as mnist:train .*, and toy:test is none"):
        split.part("held-out:40")
    train = replace(split, name="toy:train")
    with pytest.raises(UserError, match="cannot be read"):
        train.part("held-out:40@1")
    with pytest.raises(UserError, match="reaches past the 1,000 examples"):
        train.part("held-out:1001")
    with pytest.raises(UserError, match="of a part of toy:train are not known; give all its images"):
        train.part("0:500").part("held-out:10")
