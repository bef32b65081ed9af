"""Downloads, from a server on this machine."""

import gzip
import hashlib
import io
import tarfile

import numpy as np
import pytest
import requests

from robench.errors import UserError
from robench.problem import download as single_file
from robench.problem.datasets.cifar10 import Cifar10, Version, from_binary
from robench.problem.datasets.download import Download, fetch
from robench.problem.datasets.files import Places
from robench.problem.datasets.mnist import IdxFile, IdxPart, IdxSet, idx_bytes

from .serving import PAGE, left_in

CONTENT = bytes(range(256)) * 1000


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def wanted(*urls: str) -> list[Download]:
    return [Download("images.gz", f"md5:{md5(CONTENT)}", urls)]


def test_a_file_arrives_as_published_under_its_own_name(server, tmp_path):
    server.files["images.gz"] = CONTENT
    fetch(wanted(server.address + "images.gz"), tmp_path / "cache" / "toy", "toy")
    assert (tmp_path / "cache" / "toy" / "images.gz").read_bytes() == CONTENT
    assert left_in(tmp_path) == ["images.gz"]  # no temporary file stays


def test_an_existing_file_is_not_downloaded_again(server, tmp_path):
    (tmp_path / "images.gz").write_bytes(CONTENT)
    fetch(wanted(server.address + "images.gz"), tmp_path, "toy")
    assert server.requested_paths == []


def test_mirrors_are_tried_in_order_until_one_serves_the_published_file(server, nowhere, tmp_path):
    server.files |= {"page": PAGE, "other": b"something else", "good": CONTENT, "never": CONTENT}
    paths = ["none", "page", "other", "good", "never"]
    fetch(wanted(nowhere + "images.gz", *(server.address + path for path in paths)), tmp_path, "toy")
    assert server.requested_paths == ["none", "page", "other", "good"]
    assert (tmp_path / "images.gz").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("body", "missing_bytes", "answer"),
    [
        (CONTENT[:-1] + b"\0", 0, "a file with another checksum"),
        (CONTENT[:5000], 0, "a file with another checksum"),
        (CONTENT[:5000], 5000, "the transfer broke off"),
        (PAGE, 0, "an HTML page instead of the file"),
        (None, 0, "HTTP 404"),
    ],
)
def test_a_wrong_download_is_named_and_leaves_no_file(server, tmp_path, body, missing_bytes, answer):
    if body is not None:
        server.files["images.gz"] = body
        server.missing_bytes["images.gz"] = missing_bytes
    with pytest.raises(UserError) as caught:
        fetch(wanted(server.address + "images.gz"), tmp_path, "toy")
    assert f"({server.run_library}: {answer})" in str(caught.value)
    assert left_in(tmp_path) == []


def test_without_a_network_one_line_says_what_to_do_instead(nowhere, tmp_path):
    with pytest.raises(UserError) as caught:
        fetch(wanted(nowhere + "a", nowhere + "b"), tmp_path, "toy")
    message = str(caught.value)
    assert message.count("no connection") == 2
    assert "set ROBENCH_DATA to a folder that holds toy/images.gz" in message
    assert "--data digits" in message
    assert "\n" not in message


def test_a_cache_folder_that_cannot_be_made_is_named(server, tmp_path):
    server.files["images.gz"] = CONTENT
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"toy cannot be stored in .*cache.*; set ROBENCH_DATA"):
        fetch(wanted(server.address + "images.gz"), tmp_path / "cache" / "toy", "toy")


def test_progress_is_shown_only_on_a_terminal(server, tmp_path, monkeypatch, capfd):
    server.files["images.gz"] = CONTENT
    fetch(wanted(server.address + "images.gz"), tmp_path / "quiet", "toy")
    assert "\x1b[" not in capfd.readouterr().err
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes standard error for a terminal
    monkeypatch.setenv("TERM", "xterm")
    fetch(wanted(server.address + "images.gz"), tmp_path / "drawn", "toy")
    drawn = capfd.readouterr().err
    assert "\x1b[" in drawn
    assert "images.gz" in drawn
    assert "256.0/256.0 kB" in drawn


def test_mnist_is_downloaded_once_and_then_read_from_the_cache(server, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)
    labels = np.array([5, 0, 4, 1, 9, 2], dtype=np.uint8)
    files = {"t10k-images-idx3-ubyte": idx_bytes(images), "t10k-labels-idx1-ubyte": idx_bytes(labels)}
    packed = {name: gzip.compress(data) for name, data in files.items()}
    server.files |= {f"mirror/{name}.gz": data for name, data in packed.items()}
    part = IdxPart(*(IdxFile(name, md5(files[name]), md5(packed[name])) for name in files))
    toy = IdxSet("toy-mnist", ("", "toy-mnist"), (server.address + "mirror/",), {"test": part})
    places = Places(own=None, cache=tmp_path / "cache")

    first = toy.read("test", places)
    assert np.array_equal((first.x * 255).round().numpy()[:, 0], images)
    assert first.y.tolist() == labels.tolist()
    assert len(server.requested_paths) == 2

    server.files.clear()
    assert toy.read("test", places).sha256 == first.sha256
    assert len(server.requested_paths) == 2


def test_cifar10_is_downloaded_once_as_one_archive_for_both_parts(server, tmp_path):
    def batch(seed: int) -> bytes:
        rng = np.random.default_rng(seed)
        records = rng.integers(0, 256, (4, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        return records.tobytes()

    held = {"data_batch_1.bin": batch(1), "data_batch_2.bin": batch(2), "test_batch.bin": batch(3)}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in held.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    server.files["cifar.tar.gz"] = buffer.getvalue()
    parts = {
        "train": {name: md5(held[name]) for name in ("data_batch_1.bin", "data_batch_2.bin")},
        "test": {"test_batch.bin": md5(held["test_batch.bin"])},
    }
    toy = Cifar10(
        versions=(Version("cifar-10-binary.tar.gz", "cifar-10-batches-bin", parts, from_binary),),
        npz_parts={},
        npz_beginnings={},
        archive_checksum=f"sha256:{hashlib.sha256(buffer.getvalue()).hexdigest()}",
        urls=(server.address + "cifar.tar.gz",),
    )
    places = Places(own=None, cache=tmp_path)
    train, test = toy.read("train", places), toy.read("test", places)
    assert server.requested_paths == ["cifar.tar.gz"]
    assert (len(train), len(test)) == (8, 4)
    assert test.y.tolist() == list(held["test_batch.bin"][::3073])


def single(server, name, **limits):
    return single_file.Download(
        "file", f"sha256:{hashlib.sha256(server.files[name]).hexdigest()}", (server.address + name,), **limits
    )


def test_a_transfer_beyond_the_limit_is_broken_off(server, tmp_path):
    server.files |= {"small": CONTENT, "large": CONTENT + b"\0"}
    limit = len(CONTENT)
    assert single_file.fetch(single(server, "small", max_bytes=limit), tmp_path, subject="it", way_out="x").is_file()
    (tmp_path / "file").unlink()
    with pytest.raises(UserError, match="a file that is too large"):
        single_file.fetch(single(server, "large", max_bytes=limit), tmp_path, subject="it", way_out="x")
    assert left_in(tmp_path) == []


def test_a_limit_counts_what_a_transfer_unpacks_to(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        limited = single_file._Limited(file, 10)
        limited.write(b"x" * 10)
        with pytest.raises(single_file._TooLargeError):
            limited.write(b"x")


def test_an_address_without_tls_is_refused_unasked(server, tmp_path):
    server.files["small"] = CONTENT
    with pytest.raises(UserError, match="an address without TLS"):
        single_file.fetch(single(server, "small", tls=True), tmp_path, subject="it", way_out="x")
    assert server.requested_paths == []


@pytest.mark.parametrize(
    ("location", "refused"),
    [("http://example.org/x", True), ("//example.org/x", False), ("/x", False), ("https://example.org/", False)],
)
def test_a_redirect_to_an_address_without_tls_is_not_followed(location, refused):
    response = requests.Response()
    response.status_code, response.url = 302, "https://example.org/weights"
    response.headers["location"] = location
    if refused:
        with pytest.raises(single_file._NoTLSError):
            single_file._refuse_plain_redirect(response)
    else:
        single_file._refuse_plain_redirect(response)
