"""CIFAR-10-C, from made-up arrays: two corruptions of four images at five severities."""

import hashlib
import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robench.problem import datasets
from robench.problem.datasets.cifar10_c import CIFAR10_C, CorruptedCifar10, Corruption, array
from robench.problem.datasets.files import Places

from .originals import md5, message_of, noise, places, sha256, tar, write
from .serving import left_in

IMAGES = {"fog": noise(20, 32, 32, 3, seed=1), "gaussian_noise": noise(20, 32, 32, 3, seed=2)}
LABELS = np.array([3, 8, 8, 0] * 5, dtype=np.uint8)  # repeated for every severity


def npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


FILES = {f"{name}.npy": npy(values) for name, values in {**IMAGES, "labels": LABELS}.items()}
ARCHIVE = tar({f"CIFAR-10-C/{name}": data for name, data in FILES.items()})


@pytest.fixture
def toy():
    """A data set like CIFAR-10-C that nobody serves."""
    return CorruptedCifar10(
        {name.removesuffix(".npy"): md5(data) for name, data in FILES.items()}, f"sha256:{sha256(ARCHIVE)}", ()
    )


@pytest.mark.parametrize("form", ["CIFAR-10-C", "cifar10-c/CIFAR-10-C", "archive"])
@pytest.mark.parametrize("corruption", [Corruption("fog", 1), Corruption("fog", 4), Corruption("gaussian_noise", 5)])
def test_a_corruption_at_a_severity_is_its_tenth_of_the_file(toy, tmp_path, form, corruption):
    if form == "archive":
        write(tmp_path, **{"CIFAR-10-C.tar": ARCHIVE})
    else:
        write(tmp_path / form, **FILES)
    split = toy.read(corruption, places(tmp_path))
    rows = IMAGES[corruption.name][4 * (corruption.severity - 1) : 4 * corruption.severity]
    assert np.array_equal(split.x.numpy().transpose(0, 2, 3, 1), (rows / 255).astype(np.float32))
    assert split.y.tolist() == [3, 8, 8, 0]
    assert split.numbers == (0, 1, 2, 3)  # those of CIFAR-10's test images
    assert split.name == f"cifar10-c/{corruption.name}@{corruption.severity}:test"
    assert toy.here(corruption.name, places(tmp_path))


def test_the_archive_is_downloaded_once_for_all_corruptions(server, toy, tmp_path):
    server.files["files/CIFAR-10-C.tar"] = ARCHIVE
    served = replace(toy, urls=(server.address + "files/CIFAR-10-C.tar",))
    cache = Places(own=None, cache=tmp_path / "cache")
    assert not served.here("fog", cache)
    first = served.read(Corruption("fog", 2), cache)
    assert served.read(Corruption("gaussian_noise", 2), cache).sha256 != first.sha256
    assert server.requested_paths == ["files/CIFAR-10-C.tar"]
    assert left_in(tmp_path) == ["CIFAR-10-C.tar"]


@pytest.mark.parametrize("name", ["fog.npy", "labels.npy"])
def test_a_file_with_one_other_byte_is_refused_by_name(toy, tmp_path, name):
    data = FILES[name]
    other = {**FILES, name: data[:-1] + bytes([data[-1] ^ 1])}
    write(tmp_path / "CIFAR-10-C", **other)
    message = message_of(lambda: toy.read(Corruption("fog", 2), places(tmp_path)))
    assert message.startswith(f"{tmp_path / 'CIFAR-10-C' / name} is not the published file (md5 ")
    archived = tmp_path / "archived"
    write(archived, **{"CIFAR-10-C.tar": tar({f"CIFAR-10-C/{key}": value for key, value in other.items()})})
    message = message_of(lambda: toy.read(Corruption("fog", 2), places(archived)))
    assert message.startswith(f"{archived / 'CIFAR-10-C.tar'}: {name} is not the published file (md5 ")


def test_an_archive_that_breaks_off_is_damaged(toy, tmp_path):
    write(tmp_path, **{"CIFAR-10-C.tar": ARCHIVE[:70_000]})
    message = message_of(lambda: toy.read(Corruption("gaussian_noise", 2), places(tmp_path)))
    assert message.startswith(f"{tmp_path / 'CIFAR-10-C.tar'} is damaged (")


class Command:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_an_array_file_that_holds_a_pickle_is_refused_and_not_run(tmp_path):
    data = npy(np.array([Command(tmp_path / "was-run")], dtype=object))
    assert message_of(lambda: array(data, "fog.npy")).startswith("fog.npy is damaged (")
    assert not (tmp_path / "was-run").exists()
    np.load(io.BytesIO(data), allow_pickle=True)
    assert (tmp_path / "was-run").exists()


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY", FILES["fog.npy"][:-1], npy(np.zeros(3)), b"PK\x03\x04"])
def test_an_array_file_with_other_contents_is_damaged(data):
    assert message_of(lambda: array(data, "fog.npy")).startswith("fog.npy is damaged (")


# Names


def test_a_corruption_is_named_after_the_data_set():
    assert CIFAR10_C.parse("cifar10-c/gaussian_noise@3") == Corruption("gaussian_noise", 3)
    assert CIFAR10_C.parse("cifar10") is CIFAR10_C.parse("photos/fog@3") is CIFAR10_C.parse("cifar10-c") is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("cifar10-c/gausian_noise@3", "did you mean gaussian_noise"),
        ("cifar10-c/labels@3", "no corruption of cifar10-c is called 'labels'"),
        ("cifar10-c/@3", "no corruption of cifar10-c is called ''"),
        ("cifar10-c/fog", "has no severity from 1 to 5; write it like cifar10-c/fog@3"),
        ("cifar10-c/fog@0", "has no severity from 1 to 5"),
        ("cifar10-c/fog@6", "has no severity from 1 to 5"),
        ("cifar10-c/fog@3@1", "has no severity from 1 to 5"),
        ("cifar10-c/fog@3:train", "no part of cifar10-c/fog@3 is called 'train'"),
        ("cifar10-c", "name one, like cifar10-c/fog@3: brightness, contrast"),
        ("cifar10-c:train", "no part of cifar10-c is called 'train'"),
    ],
)
def test_a_name_without_a_known_corruption_and_severity_is_refused(text, reason):
    assert reason in message_of(lambda: datasets.load(text))


def test_a_corruption_is_a_data_set_of_its_own(monkeypatch, tmp_path, toy):
    write(tmp_path / "CIFAR-10-C", **FILES)
    monkeypatch.setenv("ROBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(datasets, "CIFAR10_C", toy)
    split = datasets.load("cifar10-c/fog@2")
    assert split.sha256 == toy.read(Corruption("fog", 2), places(tmp_path)).sha256
    assert datasets.load(split.name).sha256 == split.sha256
    assert datasets.title("cifar10-c/fog@2") == datasets.find("cifar10-c/fog@2").name == "cifar10-c/fog@2"
    assert datasets.placed("cifar10-c/fog@2") == "cifar10-c/fog@2"


def test_there_are_19_corruptions_and_their_labels_are_those_of_cifar10():
    assert len(CIFAR10_C.corruptions) == 19
    labels = Path(os.environ.get("ROBENCH_DATA", "")) / "cifar10_test_labels_all.npz"
    if not labels.is_file():
        pytest.skip("set ROBENCH_DATA to a folder with cifar10_test_labels_all.npz")
    repeated = np.tile(np.load(labels)["y_test"], 5).astype(np.uint8)
    assert hashlib.md5(npy(repeated)).hexdigest() == CIFAR10_C.files["labels"]
