import hashlib

import pytest
import torch

from robench.errors import UserError
from robench.problem.split import Split


@pytest.fixture
def split():
    x = torch.rand(60, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    return Split.whole("toy:test", x, torch.arange(60) % 7, classes=7)


def test_a_count_is_that_many_examples_from_the_start(split):
    part = split.part("25")
    assert part.numbers == tuple(range(25))
    assert torch.equal(part.x, split.x[:25])
    assert torch.equal(part.y, split.y[:25])


@pytest.mark.parametrize(("text", "numbers"), [("20:50", range(20, 50)), ("50:", range(50, 60)), (":3", range(3))])
def test_a_slice_is_the_examples_from_its_first_number_up_to_its_last(split, text, numbers):
    part = split.part(text)
    assert part.numbers == tuple(numbers)
    assert torch.equal(part.x, split.x[list(numbers)])


def test_a_part_keeps_the_name_and_the_number_of_classes_of_the_whole(split):
    part = split.part("2")  # these two examples show two of the seven classes
    assert (part.name, part.classes, part.shape, len(part)) == ("toy:test", 7, (1, 4, 5), 2)


def test_an_example_keeps_its_number_when_a_part_is_cut_again(split):
    assert split.part("20:50").take([3, 0]).numbers == (23, 20)


def test_a_cut_knows_the_whole_part_it_is_from(split):
    assert split.uncut is split
    assert split.part("20:50").uncut is split
    assert split.part("20:50").take([3, 0]).uncut is split


def test_a_digest_is_the_hash_of_the_label_the_shape_and_the_float32_pixels(split):
    expected = hashlib.sha256(b"3 (1, 4, 5) " + split.x[10].numpy().astype("<f4").tobytes()).hexdigest()[:16]
    assert split.digests[10] == expected


def test_digests_follow_the_image_and_not_its_place(split):
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1)).tolist()
    assert split.take(order).digests == tuple(split.digests[i] for i in order)
    assert split.part("20:50").digests == split.digests[20:50]


def test_a_digest_changes_with_one_bit_of_a_pixel_and_with_the_label(split):
    x = split.x.clone()
    x[4, 0, 2, 2] = torch.nextafter(x[4, 0, 2, 2], torch.tensor(2.0))
    y = split.y.clone()
    y[9] += 1
    other = Split.whole("toy:test", x, y, classes=7)
    assert [i for i in range(60) if other.digests[i] != split.digests[i]] == [4, 9]


def test_images_stored_in_another_memory_order_have_the_same_digests(split):
    x = split.x.to(memory_format=torch.channels_last)
    assert Split("toy:test", x, split.y, split.numbers, 7).digests == split.digests


def test_the_hash_of_a_split_changes_with_the_order_of_its_examples(split):
    assert split.take([0, 1, 2]).sha256 == split.part("3").sha256
    assert split.take([1, 0, 2]).sha256 != split.part("3").sha256


@pytest.mark.parametrize(
    "text", ["", "ten", "1.5", "a:b", "1:2:3", "-3", "0", "5:5", "9:4", "-5:3", "61", "0:61", "70:80"]
)
def test_an_unreadable_text_is_quoted_in_the_error(split, text):
    with pytest.raises(UserError) as caught:
        split.part(text)
    message = str(caught.value)
    assert message.startswith(f"--examples {text}")
    assert "\n" not in message


def test_a_part_beyond_the_end_is_refused_with_the_number_of_examples(split):
    with pytest.raises(UserError, match="reaches past the 60 examples of toy:test"):
        split.part("100")
