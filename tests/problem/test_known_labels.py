"""Labels that are known without images: those of the data, and of no other images."""

import pytest

from robench.problem import datasets
from robench.problem.datasets.known_labels import FOLDER, file_name, known_labels, records

FILES = sorted(path.name for path in FOLDER.iterdir())


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits:test")


@pytest.mark.parametrize("data", ["digits:test", "mnist:test", "fashion-mnist:test"])
def test_the_files_are_what_the_data_give(data):
    if not datasets.DATASETS[data.partition(":")[0]].here("test"):
        pytest.skip(f"{data} is not on this machine")
    assert (FOLDER / file_name(data)).read_bytes() == records(datasets.load(data))


def test_there_is_no_other_file():
    assert FILES == ["digits-test.bin", "fashion-mnist-test.bin", "mnist-test.bin"]


def test_labels_are_given_by_number_in_any_order(digits):
    numbers = [499, 3, 0]
    found = known_labels("digits:test", {n: digits.digests[n] for n in numbers})
    assert list(found.items()) == [(n, int(digits.y[n])) for n in numbers]


def test_an_example_without_a_digest_has_the_label_of_its_number_if_others_agree(digits):
    assert known_labels("digits:test", {0: digits.digests[0], 7: ""}) == {0: int(digits.y[0]), 7: int(digits.y[7])}
    assert known_labels("digits:test", {0: "", 7: ""}) is None


def test_other_images_under_the_name_have_no_labels(digits):
    true = {n: digits.digests[n] for n in range(60)}
    assert known_labels("digits:test", true | {5: digits.digests[6]}) is None
    assert known_labels("digits:test", true | {500: digits.digests[0]}) is None
    assert known_labels("mnist:test", true) is None


@pytest.mark.parametrize(
    "data",
    ["cifar10:test", "digits:train", "digits", "my:test", "", "../label_files/digits:test", "digits-test.bin\0:test"],
)
def test_other_data_have_no_labels(data, digits):
    assert known_labels(data, {0: digits.digests[0]}) is None
