"""SVHN, from made-up MATLAB files."""

import io

import numpy as np
import pytest
import scipy.io

from robench.problem import datasets
from robench.problem.datasets.files import Places
from robench.problem.datasets.svhn import SVHN, MatFile, Svhn, parse_mat
from robench.problem.split import Split, Undecoded

from .originals import md5, message_of, noise, places, sha256, write
from .serving import left_in

STORED = np.array([10, 1, 2, 9, 10], dtype=np.uint8)  # as in the files: 10 is the digit 0
LABELS = [0, 1, 2, 9, 0]
TEXT = 116  # bytes at the start of the file that say in words what it is


@pytest.fixture
def images():
    return noise(5, 3, 32, 32)


def mat(images, stored=STORED, **more) -> bytes:
    """A file as the authors' MATLAB wrote it: the images along the last axis, the labels in a column."""
    buffer = io.BytesIO()
    scipy.io.savemat(
        buffer, {"X": images.transpose(2, 3, 1, 0), "y": stored.reshape(-1, 1), **more}, do_compression=True
    )
    written = buffer.getvalue()
    return b"MATLAB 5.0 MAT-file".ljust(TEXT) + written[TEXT:]  # SciPy's text has the second in which it was written


@pytest.fixture
def toy(images):
    """A data set like SVHN with five images in each part, which nobody serves."""
    data = mat(images)
    names = {part: f"{part}_32x32.mat" for part in ("train", "extra", "test")}
    return Svhn({part: MatFile(name, md5(data), sha256(data)) for part, name in names.items()}, ())


@pytest.mark.parametrize("folder", ["", "svhn", "SVHN"])
def test_a_part_is_read_from_its_file_at_the_top_or_in_a_subfolder(toy, images, tmp_path, folder):
    write(tmp_path / folder, **{"test_32x32.mat": mat(images)})
    split = toy.read("test", places(tmp_path))
    assert isinstance(split, Split)
    assert (split.name, split.classes, split.shape) == ("svhn:test", 10, (3, 32, 32))
    assert np.array_equal(split.x.numpy(), (images / 255).astype(np.float32))
    assert split.y.tolist() == LABELS
    assert split.numbers == tuple(range(5))
    assert toy.here("test", places(tmp_path))
    assert not toy.here("train", places(tmp_path))


def test_the_half_million_extra_images_stay_bytes_until_they_are_taken(toy, images, tmp_path):
    write(tmp_path, **{"extra_32x32.mat": mat(images), "test_32x32.mat": mat(images)})
    extra = toy.read("extra", places(tmp_path))
    assert isinstance(extra, Undecoded)
    whole, taken = toy.read("test", places(tmp_path)), extra.take([4, 1])
    assert (taken.name, taken.numbers) == ("svhn:extra", (4, 1))
    assert taken.digests == (whole.digests[4], whole.digests[1])
    assert list(extra.labels) == LABELS
    assert len(extra.part("stratified:3")) == 3


def test_a_file_is_downloaded_once_and_then_read_from_the_cache(server, toy, images, tmp_path):
    server.files["svhn/test_32x32.mat"] = mat(images)
    served = Svhn(toy.files, (server.address + "svhn/",))
    cache = Places(own=None, cache=tmp_path / "cache")
    first = served.read("test", cache)
    assert first.y.tolist() == LABELS
    assert server.requested_paths == ["svhn/test_32x32.mat"]
    server.files.clear()
    assert served.read("test", cache).sha256 == first.sha256
    assert left_in(tmp_path) == ["test_32x32.mat"]


def test_a_server_with_another_file_leaves_nothing_behind(server, toy, images, tmp_path):
    server.files["test_32x32.mat"] = mat(images ^ 1)
    served = Svhn(toy.files, (server.address,))
    message = message_of(lambda: served.read("test", Places(None, tmp_path / "cache")))
    assert "a file with another checksum" in message
    assert "set ROBENCH_DATA to a folder that holds svhn/test_32x32.mat" in message
    assert left_in(tmp_path) == []


def test_a_file_that_is_not_the_published_one_is_refused_before_it_is_parsed(toy, tmp_path, monkeypatch):
    monkeypatch.setattr("robench.problem.datasets.svhn.parse_mat", lambda *_: pytest.fail("it was parsed"))
    write(tmp_path, **{"test_32x32.mat": b"MATLAB 5.0 MAT-file, but another one"})
    message = message_of(lambda: toy.read("test", places(tmp_path)))
    assert message.startswith(f"{tmp_path / 'test_32x32.mat'} is not the published file (md5 ")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda images: mat(images)[:1000], ""),
        (lambda images: b"", ""),
        (lambda images: b"no MATLAB file" * 100, ""),
        (lambda images: mat(images, STORED[:4]), "images uint8 (32, 32, 3, 5) with labels uint8 (4,)"),
        (lambda images: mat(images.astype(float)), "images float64"),
        (lambda images: mat(images[:, :2]), "images uint8 (32, 32, 2, 5)"),
        (lambda images: mat(images, STORED - 1), "its labels are not all from 1 to 10"),
        (lambda images: mat(images, STORED + 1), "its labels are not all from 1 to 10"),
        (lambda images: mat(images).replace(b"y", b"z"), ""),
    ],
)
def test_a_file_with_other_contents_is_damaged(images, spoil, reason):
    message = message_of(lambda: parse_mat(spoil(images), "test_32x32.mat"))
    assert message.startswith(f"test_32x32.mat is damaged ({reason}")


def test_the_published_files_are_those_of_the_authors_page():
    assert [file.name for file in SVHN.files.values()] == ["train_32x32.mat", "extra_32x32.mat", "test_32x32.mat"]
    assert all(len(file.md5) == 32 and len(file.sha256) == 64 for file in SVHN.files.values())


def test_svhn_has_a_third_part_and_names_all_of_them():
    assert "there are extra, test, train" in message_of(lambda: datasets.load("svhn:val"))
