"""Data sets and files of images. The tests of real data run when ROBENCH_DATA names a folder that has them."""

import gzip
import io
import os
import pickle
import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from robench.errors import UserError
from robench.problem import datasets
from robench.problem.datasets import cifar10, digits, mnist, npz
from robench.problem.datasets.batch_pickle import read_batch
from robench.problem.datasets.files import Places
from robench.problem.datasets.pixels import unit

from .originals import md5, message_of, noise, places, write

# The registry


def test_every_data_set_describes_itself():
    for name, data in datasets.DATASETS.items():
        assert data.name == name
        assert "http" in data.about
        assert "\n" not in data.about + data.licence
        assert len(data.mean) == len(data.std) in (0, data.shape[0])
        assert set(data.parts) <= {"train", "extra", "test"}


def test_the_data_sets_that_fit_a_shape_are_listed():
    assert datasets.fitting((1, 28, 28)) == ["digits", "mnist", "fashion-mnist"]
    assert datasets.fitting((3, 32, 32)) == ["cifar10", "cifar10-c", "svhn"]  # rst-500k has no test images
    assert datasets.fitting((1, 32, 32)) == []


def test_a_part_may_be_named_in_the_text_or_beside_it():
    assert datasets.load("digits").name == "digits:test"
    assert datasets.load("digits:train").name == "digits:train"
    assert datasets.load("digits", "train").sha256 == datasets.load("digits:train", "test").sha256


def test_an_unknown_name_is_refused_with_similar_names():
    assert "no data set is called 'minst'; did you mean mnist" in message_of(lambda: datasets.load("minst"))
    assert "there are cifar10, cifar10-c, digits, fashion-mnist, mnist" in message_of(lambda: datasets.load("zzz"))
    assert message_of(lambda: datasets.load("mnist:tets")) == "no part of mnist is called 'tets'; did you mean test?"


def test_robench_data_must_be_a_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("ROBENCH_DATA", str(tmp_path / "nowhere"))
    assert "ROBENCH_DATA is" in message_of(lambda: datasets.load("mnist"))


def test_the_users_folder_comes_before_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("ROBENCH_DATA", str(tmp_path))
    places = Places.of_this_user()
    assert places.roots == (tmp_path, places.cache)
    monkeypatch.delenv("ROBENCH_DATA")
    assert Places.of_this_user().roots == (places.cache,)
    assert places.cache.name == "robench"


def test_a_byte_becomes_the_float32_nearest_to_its_255th():
    every = np.arange(256, dtype=np.uint8)
    assert unit(every).tolist() == [struct.unpack("f", struct.pack("f", i / 255))[0] for i in range(256)]


# digits


def test_the_digits_are_the_same_1297_and_500_images_in_every_version():
    train, test = datasets.load("digits:train"), datasets.load("digits")
    assert train.x.shape == (1297, 1, 28, 28)
    assert test.x.shape == (500, 1, 28, 28)
    assert train.sha256 == "0f45ecb037c7b6bd95e702f57cda7a2396c6dbb4ea2b33e5dad3f07dd41971e4"
    assert test.sha256 == "f8caf6668918448ad38843b3a0d1ae10f6ae4cf4903d753b57aa593aa18c09bd"


def test_no_digit_is_in_both_parts_and_every_digit_is_in_one():
    train, test = set(datasets.load("digits:train").digests), set(datasets.load("digits").digests)
    assert not train & test
    assert len(train | test) == 1797  # scikit-learn's images are all different


def test_digits_are_enlarged_as_bilinear_interpolation_does():
    stored = noise(20, 8, 8).astype(np.int64) % 17
    expected = F.interpolate(torch.from_numpy(stored / 16)[:, None], size=(28, 28), mode="bilinear")
    assert np.abs(digits.upscaled(stored) - expected[:, 0].numpy()).max() < 1e-7


def test_blank_paper_and_full_ink_stay_exactly_0_and_1():
    stored = np.zeros((2, 8, 8), dtype=np.int64)
    stored[1] = 16
    assert np.unique(digits.upscaled(stored)[0]).tolist() == [0.0]
    assert np.unique(digits.upscaled(stored)[1]).tolist() == [1.0]


# IDX files


@pytest.fixture
def images():
    return noise(6, 28, 28)


@pytest.fixture
def labels():
    return np.array([5, 0, 4, 1, 9, 2], dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    """An IDX file, written with struct after the published description of the format."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def toy(images, labels):
    """A data set like MNIST with six images, which nobody serves."""
    part = mnist.IdxPart(
        mnist.IdxFile("t10k-images-idx3-ubyte", md5(idx(images)), "unused"),
        mnist.IdxFile("t10k-labels-idx1-ubyte", md5(idx(labels)), "unused"),
    )
    return mnist.IdxSet("toy-mnist", ("", "MNIST/raw"), (), {"test": part})


def originals(images, labels) -> dict[str, bytes]:
    return {"t10k-images-idx3-ubyte": idx(images), "t10k-labels-idx1-ubyte": idx(labels)}


@pytest.mark.parametrize("folder", ["", "MNIST/raw"])
@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_are_read_packed_or_not_at_the_top_or_in_a_subfolder(toy, images, labels, tmp_path, folder, packed):
    files = originals(images, labels)
    if packed:
        files = {f"{name}.gz": gzip.compress(data) for name, data in files.items()}
    write(tmp_path / folder, **files)
    split = toy.read("test", places(tmp_path))
    assert (split.name, split.classes, split.shape) == ("toy-mnist:test", 10, (1, 28, 28))
    assert np.array_equal(split.x.numpy()[:, 0], (images / 255).astype(np.float32))
    assert split.y.tolist() == labels.tolist()


def test_an_npz_file_with_the_published_arrays_is_the_same_split(toy, images, labels, tmp_path):
    write(tmp_path / "idx", **originals(images, labels))
    (tmp_path / "npz").mkdir()
    np.savez_compressed(tmp_path / "npz" / "toy_mnist_test.npz", x_test=images, y_test=labels.astype(np.int64))
    assert toy.read("test", places(tmp_path / "npz")).sha256 == toy.read("test", places(tmp_path / "idx")).sha256


def test_an_npz_file_with_one_other_pixel_is_refused(toy, images, labels, tmp_path):
    images[3, 14, 14] ^= 1
    np.savez(tmp_path / "toy_mnist_test.npz", x_test=images, y_test=labels)
    message = message_of(lambda: toy.read("test", places(tmp_path)))
    assert "toy_mnist_test.npz: x_test is not the published file" in message


def test_an_npz_file_of_mnist_that_holds_floats_is_refused(toy, images, labels, tmp_path):
    np.savez(tmp_path / "toy_mnist_test.npz", x_test=images / 255, y_test=labels)
    assert "it holds float64 and uint8, not bytes" in message_of(lambda: toy.read("test", places(tmp_path)))


def test_the_cache_is_read_when_the_users_folder_lacks_a_file(toy, images, labels, tmp_path):
    files = originals(images, labels)
    write(tmp_path / "own", **{"t10k-images-idx3-ubyte": files["t10k-images-idx3-ubyte"]})
    write(tmp_path / "cache", **files)
    assert len(toy.read("test", Places(tmp_path / "own", tmp_path / "cache"))) == 6


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: data[:-100], "is damaged (it has"),
        (lambda data: data[:7], "is damaged (it ends within its header"),
        (lambda data: b"", "is damaged (it begins with nothing"),
        (lambda data: b"\0\0\x0d" + data[3:], "is damaged (it begins with 00000d03"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "is not the published file (md5"),
        (lambda data: b"<html><body>404</body></html>", "is an HTML page"),
    ],
)
def test_a_damaged_idx_file_is_refused_by_name(toy, images, labels, tmp_path, spoil, reason):
    files = originals(images, labels)
    files["t10k-images-idx3-ubyte"] = spoil(files["t10k-images-idx3-ubyte"])
    write(tmp_path, **files)
    message = message_of(lambda: toy.read("test", places(tmp_path)))
    assert message.startswith(f"{tmp_path / 't10k-images-idx3-ubyte'} {reason}")


def test_a_packed_file_that_breaks_off_is_refused_by_name(toy, images, labels, tmp_path):
    files = {f"{name}.gz": gzip.compress(data) for name, data in originals(images, labels).items()}
    files["t10k-images-idx3-ubyte.gz"] = files["t10k-images-idx3-ubyte.gz"][:-50]
    write(tmp_path, **files)
    assert "t10k-images-idx3-ubyte.gz is damaged" in message_of(lambda: toy.read("test", places(tmp_path)))


def test_idx_bytes_writes_what_the_format_prescribes(images, labels):
    assert mnist.idx_bytes(images) == idx(images)
    assert mnist.idx_bytes(labels) == idx(labels)


def test_files_in_the_top_folder_are_not_read_as_fashion_mnist():
    assert "" in mnist.MNIST.folders
    assert "" not in mnist.FASHION_MNIST.folders


# CIFAR-10


def batch_of(n: int) -> np.ndarray:
    """n records: a label, then 3072 pixels."""
    records = noise(n, 3073, seed=n)
    records[:, 0] %= 10
    return records


@pytest.fixture
def batches():
    return {"data_batch_1": batch_of(3), "data_batch_2": batch_of(4), "test_batch": batch_of(5)}


def text_of_python_2(text: bytes) -> bytes:
    return b"U" + bytes([len(text)]) + text


def python_2_pickle(records: np.ndarray, type_code: bytes = b"u1") -> bytes:
    """A batch as Python 2 pickled it, opcode by opcode: the published files have this form."""
    pixels = records[:, 1:].tobytes()
    labels = b"".join(b"K" + bytes([label]) for label in records[:, 0].tolist())
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n"
        b"cnumpy\nndarray\n" + b"K\x00\x85" + text_of_python_2(b"b") + b"\x87R"
        b"(K\x01M" + struct.pack("<H", len(records)) + b"M\x00\x0c\x86"
        b"cnumpy\ndtype\n" + text_of_python_2(type_code) + b"K\x00K\x01\x87R"
        b"(K\x03" + text_of_python_2(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + struct.pack("<I", len(pixels)) + pixels + b"tb"
    )
    return (
        b"\x80\x02}("
        + text_of_python_2(b"batch_label") + text_of_python_2(b"training batch 1 of 5")
        + text_of_python_2(b"labels") + b"](" + labels + b"e"
        + text_of_python_2(b"data") + array
        + text_of_python_2(b"filenames") + b"](" + text_of_python_2(b"frog.png") + b"eu."
    )  # fmt: skip


def version(published: cifar10.Version, files: dict[str, bytes]) -> cifar10.Version:
    """The published version with these small files instead of the real ones."""
    parts = {
        "train": {name: md5(data) for name, data in files.items() if name.startswith("data")},
        "test": {name: md5(data) for name, data in files.items() if name.startswith("test")},
    }
    return replace(published, parts=parts)


@pytest.fixture
def binary_files(batches):
    return {f"{name}.bin": records.tobytes() for name, records in batches.items()}


@pytest.fixture
def python_files(batches):
    return {name: python_2_pickle(records) for name, records in batches.items()}


@pytest.fixture
def small_cifar10(batches, binary_files, python_files):
    return cifar10.Cifar10(
        versions=(version(cifar10.BINARY, binary_files), version(cifar10.PYTHON, python_files)),
        npz_parts={
            "train": {f"cifar10_train_{k}.npz": md5(batches[f"data_batch_{k}"].tobytes()) for k in (1, 2)},
            "test": {"cifar10_test.npz": md5(batches["test_batch"].tobytes())},
        },
        npz_beginnings={"test": {"cifar10_test_first2.npz": md5(batches["test_batch"][:2].tobytes())}},
        archive_checksum="unused",
        urls=(),
    )


def archive(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in {"readme.html": b"<html>", **files}.items():
            member = tarfile.TarInfo(f"cifar-10-batches/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def save_images(path: Path, records: np.ndarray, part: str) -> None:
    """An .npz file as others write it: one image after the other, channels last."""
    x = np.stack([np.dstack(record[1:].reshape(3, 32, 32)) for record in records])
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **{f"x_{part}": x, f"y_{part}": records[:, 0].astype(np.int64)})


def lay(form: str, folder: Path, batches, binary_files, python_files) -> None:
    """The data set in one of the forms in which people have it."""
    match form:
        case "binary":
            write(folder / "cifar-10-batches-bin", **binary_files)
        case "binary at the top":
            write(folder, **binary_files)
        case "binary archive":
            archive(folder / "cifar-10-binary.tar.gz", binary_files)
        case "python":
            write(folder / "cifar-10-batches-py", **python_files)
        case "python archive":
            archive(folder / "cifar-10-python.tar.gz", python_files)
        case "npz":
            save_images(folder / "big" / "cifar10_train_1.npz", batches["data_batch_1"], "train")
            save_images(folder / "big" / "cifar10_train_2.npz", batches["data_batch_2"], "train")
            save_images(folder / "cifar10_test.npz", batches["test_batch"], "test")


@pytest.mark.parametrize("form", ["binary", "binary at the top", "binary archive", "python", "python archive", "npz"])
def test_cifar10_is_the_same_in_every_form(small_cifar10, batches, binary_files, python_files, tmp_path, form):
    lay(form, tmp_path, batches, binary_files, python_files)
    train, test = (small_cifar10.read(part, places(tmp_path)) for part in ("train", "test"))
    records = np.concatenate([batches["data_batch_1"], batches["data_batch_2"]])
    assert (train.name, train.shape, len(train), len(test)) == ("cifar10:train", (3, 32, 32), 7, 5)
    assert train.y.tolist() == records[:, 0].tolist()
    for channel, row, column in [(0, 0, 0), (1, 0, 31), (2, 31, 5)]:
        place = 1 + 1024 * channel + 32 * row + column
        assert torch.equal(train.x[:, channel, row, column], torch.from_numpy(records[:, place]) / 255)


def test_a_file_with_only_the_first_examples_is_read_with_a_warning(small_cifar10, batches, tmp_path, caplog):
    save_images(tmp_path / "cifar10_test_first2.npz", batches["test_batch"][:2], "test")
    beginning = small_cifar10.read("test", places(tmp_path))
    assert caplog.messages == [f"{tmp_path} holds only the first 2 examples of cifar10:test"]
    save_images(tmp_path / "cifar10_test.npz", batches["test_batch"], "test")
    assert small_cifar10.read("test", places(tmp_path)).digests[:2] == beginning.digests
    assert len(caplog.messages) == 1


def test_an_npz_file_of_cifar10_with_one_other_pixel_is_refused(small_cifar10, batches, tmp_path):
    batches["test_batch"][2, 1000] ^= 1
    save_images(tmp_path / "cifar10_test.npz", batches["test_batch"], "test")
    message = message_of(lambda: small_cifar10.read("test", places(tmp_path)))
    assert message.startswith(f"{tmp_path / 'cifar10_test.npz'} is not the published file")


def test_an_npz_file_of_cifar10_with_labels_of_another_kind_is_refused(small_cifar10, tmp_path):
    np.savez(tmp_path / "cifar10_test.npz", x_test=noise(2, 32, 32, 3), y_test=np.array(["cat", "dog"]))
    assert "labels <U3 (2,)" in message_of(lambda: small_cifar10.read("test", places(tmp_path)))


def test_a_batch_with_one_other_byte_is_refused_by_name(small_cifar10, binary_files, tmp_path):
    data = binary_files["test_batch.bin"]
    write(tmp_path, **{"test_batch.bin": data[:-1] + bytes([data[-1] ^ 1])})
    message = message_of(lambda: small_cifar10.read("test", places(tmp_path)))
    assert message.startswith(f"{tmp_path / 'test_batch.bin'} is not the published file")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: data[:-2000], "is damaged"),
        (lambda data: b"not an archive", "is damaged"),
        (lambda data: b"<html></html>", "is an HTML page"),
    ],
)
def test_a_damaged_archive_is_refused_by_name(small_cifar10, binary_files, tmp_path, spoil, reason):
    path = tmp_path / "cifar-10-binary.tar.gz"
    archive(path, binary_files)
    path.write_bytes(spoil(path.read_bytes()))
    message = message_of(lambda: small_cifar10.read("test", places(tmp_path)))
    assert message.startswith(f"{path} {reason}")


def test_an_archive_without_the_batches_is_refused_with_the_missing_names(small_cifar10, tmp_path):
    archive(tmp_path / "cifar-10-binary.tar.gz", {"data_batch_1.bin": b"..."})
    assert "it lacks test_batch.bin" in message_of(lambda: small_cifar10.read("test", places(tmp_path)))


def test_a_binary_batch_that_ends_within_a_record_is_damaged():
    message = message_of(lambda: cifar10.from_binary(bytes(3073 + 100), "test_batch.bin"))
    assert "3173 bytes, which is no multiple of 3073" in message


# The restricted unpickler


class Command:
    """What an attacker pickles: loading it runs a command."""

    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


def hostile_pickles(params: Path) -> list[bytes]:
    touch = (os.system, f"touch {params}")
    return [
        pickle.dumps(Command(*touch), protocol=2),
        pickle.dumps({b"labels": [1], b"data": Command(*touch)}, protocol=4),
        pickle.dumps({b"data": Command(eval, f"open({str(params)!r}, 'w')")}, protocol=0),
        pickle.dumps({b"data": Command(getattr, np.ndarray, "dump")}, protocol=2),
        b"cnumpy\nload\n.",  # from an admitted module
        b"cnumpy.core.multiarray\nfromfile\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.dump\x93.",  # an attribute of an admitted name
    ]


@pytest.mark.parametrize("case", range(7))
def test_a_batch_pickle_that_names_a_callable_is_refused_before_any_call(tmp_path, case):
    params = tmp_path / "was-run"
    message = message_of(lambda: read_batch(hostile_pickles(params)[case], "data_batch_1"))
    assert message.startswith("data_batch_1 would run ")
    assert not params.exists()


def test_the_witness_of_the_hostile_pickles_would_have_been_seen(tmp_path):
    pickle.loads(hostile_pickles(tmp_path / "was-run")[0])
    assert (tmp_path / "was-run").exists()


def test_a_pickled_batch_gives_its_labels_and_pixels():
    records = batch_of(3)
    batch = read_batch(python_2_pickle(records), "data_batch_1")
    assert batch.labels.tolist() == records[:, 0].tolist()
    assert np.array_equal(batch.pixels, records[:, 1:])


def test_numpy_itself_reads_the_same_array_out_of_the_pickles_of_these_tests():
    records = batch_of(3)
    held = pickle.loads(python_2_pickle(records), encoding="bytes")
    assert np.array_equal(held[b"data"], records[:, 1:])


@pytest.mark.parametrize(
    "data",
    [
        python_2_pickle(batch_of(3))[:-500],
        python_2_pickle(batch_of(3), type_code=b"O8"),
        python_2_pickle(batch_of(3)).replace(b"M\x03\x00M\x00\x0c", b"M\x04\x00M\x00\x0c"),  # four rows, bytes of three
        python_2_pickle(batch_of(3)).replace(b"labels", b"labelz"),
        python_2_pickle(batch_of(3)).replace(b"](K", b"](K\x01K", 1),  # four labels for three images
        b"",
        b"not a pickle",
        pickle.dumps([1, 2], protocol=2),
        pickle.dumps({b"data": [1, 2]}, protocol=3),
    ],
)
def test_a_damaged_batch_is_refused_by_name(data):
    assert message_of(lambda: read_batch(data, "data_batch_1")).startswith("data_batch_1 is damaged")


# The user's own .npz files


@pytest.fixture
def pictures():
    return noise(6, 3, 9, 7)  # N, C, H, W


Y = np.array([0, 3, 1, 3, 2, 0])


def npz_file(tmp_path: Path, **arrays) -> str:
    np.savez(tmp_path / "my.npz", **arrays)
    return str(tmp_path / "my.npz")


def test_an_npz_file_is_read_with_channels_first_or_last_as_bytes_or_floats(tmp_path, pictures):
    expected = (pictures / 255).astype(np.float32)
    for x in (
        pictures,
        pictures.transpose(0, 2, 3, 1),
        expected,
        pictures.transpose(0, 2, 3, 1) / 255,  # float64
    ):
        split = datasets.load(npz_file(tmp_path, x=x, y=Y))
        assert (split.name, split.classes, split.numbers) == ("my.npz", 4, tuple(range(6)))
        assert split.x.dtype == torch.float32
        assert np.array_equal(split.x.numpy(), expected)
        assert split.y.tolist() == Y.tolist()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_one_three_or_four_entries_are_channels(tmp_path, channels):
    x = noise(6, 9, 7, channels)
    assert datasets.load(npz_file(tmp_path, x=x, y=Y)).shape == (channels, 9, 7)


def test_images_without_a_channel_axis_are_grey(tmp_path, pictures):
    split = datasets.load(npz_file(tmp_path, x=pictures[:, 0], y=Y))
    assert split.shape == (1, 9, 7)
    assert np.array_equal(split.x.numpy()[:, 0], (pictures[:, 0] / 255).astype(np.float32))


def test_arrays_may_be_named_after_their_part(tmp_path, pictures):
    path = npz_file(tmp_path, x_test=pictures, y_test=Y, x_train=pictures[:2], y_train=Y[:2])
    assert (datasets.load(path).name, len(datasets.load(path))) == ("my.npz", 6)
    assert (datasets.load(path, "train").name, len(datasets.load(f"{path}:train"))) == ("my.npz:train", 2)


def test_labels_of_any_integer_type_and_whole_floats_are_the_same_labels(tmp_path, pictures):
    for kind in (np.uint8, np.int32, np.uint64, np.float32):
        assert datasets.load(npz_file(tmp_path, x=pictures, y=Y.astype(kind))).y.tolist() == Y.tolist()


GOOD = np.zeros((6, 9, 7, 3), dtype=np.uint8)
FLOATS = GOOD + np.linspace(0, 1, 6).reshape(6, 1, 1, 1)


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"images": GOOD, "labels": Y}, "has no array x_test and no array y_test; it holds images, labels"),
        ({"x": GOOD}, "has no array y; it holds x, and robench reads x and y"),
        ({"x": GOOD}, "it holds x, and robench reads x and y"),
        ({"x": GOOD, "y": Y[:5]}, "has 6 images in x but 5 labels in y"),
        ({"x": GOOD[0, 0], "y": np.arange(7)}, "x has shape (7, 3); robench reads images as"),
        ({"x": GOOD[None], "y": Y[:1]}, "x has shape (1, 6, 9, 7, 3); robench reads images as"),
        ({"x": np.uint8(3), "y": Y}, "x has shape (); robench reads images as"),
        ({"x": GOOD, "y": np.ones((6, 2))}, "y has shape (6, 2) and is not one-hot"),
        ({"x": GOOD[:0], "y": Y[:0]}, "x is empty: its shape is (0, 9, 7, 3)"),
        ({"x": GOOD[:, :3], "y": Y}, "x has shape (6, 3, 7, 3), which may be (N,C,H,W) or (N,H,W,C)"),
        ({"x": GOOD[..., :2], "y": Y}, "neither its second nor its last axis has 1, 3 or 4 channels"),
        ({"x": FLOATS * 255, "y": Y}, "floats from 0 to 255; pixels go from 0 to 1: divide them by 255"),
        ({"x": FLOATS * 4 - 2, "y": Y}, "floats from -2 to 2; pixels go from 0 to 1: undo their normalisation"),
        ({"x": FLOATS + 1e-6, "y": Y}, "floats from 1e-06 to 1.000001; pixels go from 0 to 1"),
        ({"x": np.where(FLOATS == 1, np.nan, FLOATS), "y": Y}, "x holds NaN or infinite values"),
        ({"x": GOOD.astype(np.int64), "y": Y}, "x holds int64; robench reads uint8"),
        ({"x": GOOD > 0, "y": Y}, "x holds bool; robench reads uint8"),
        ({"x": GOOD, "y": Y + 0.5}, "y holds labels that are not whole numbers"),
        ({"x": GOOD, "y": np.array(list("abcdef"))}, "y holds labels that are not whole numbers"),
        ({"x": GOOD, "y": np.full(6, np.nan)}, "y holds labels that are not whole numbers"),
        ({"x": GOOD, "y": Y - 1}, "y holds the negative label -1; number the classes 0, 1, 2"),
        ({"x": np.array([GOOD[0], None], dtype=object), "y": Y[:2]}, "x holds Python objects"),
        ({"x": GOOD, "y": np.array([1, "a", None, 2, 3, 4], dtype=object)}, "y holds Python objects"),
    ],
)  # fmt: skip
def test_an_unusable_npz_file_is_refused_in_one_sentence(tmp_path, arrays, sentence):
    path = npz_file(tmp_path, **arrays)
    message = message_of(lambda: datasets.load(path))
    assert message.startswith(path)
    assert sentence in message


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"<!doctype html><title>Sign in</title>", "is an HTML page"),
        (b"PK\x03\x04 cut short", "is damaged or not an .npz archive"),
        (pickle.dumps([1, 2, 3]), "is damaged or not an .npz archive"),
        (b"", "is damaged or not an .npz archive"),
    ],
)
def test_a_file_that_is_not_an_archive_is_refused(tmp_path, content, sentence):
    (tmp_path / "my.npz").write_bytes(content)
    assert sentence in message_of(lambda: datasets.load(str(tmp_path / "my.npz")))


def test_a_missing_file_is_named(tmp_path):
    assert f"there is no file {tmp_path / 'my.npz'}" in message_of(lambda: datasets.load(str(tmp_path / "my.npz")))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_with_a_flipped_bit_is_damaged(tmp_path, save, pictures):
    path = tmp_path / "my.npz"
    save(path, x=pictures, y=Y)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 16  # within x
    path.write_bytes(data)
    assert message_of(lambda: npz.read(path)).startswith(f"{path}: x is damaged")


# The real data

ROBENCH_DATA = os.environ.get("ROBENCH_DATA")
real = pytest.mark.skipif(not ROBENCH_DATA, reason="set ROBENCH_DATA to a folder with the real data")
PUBLISHED = {
    "mnist:test": "ad73c3fd0c27dfe424d6e22d05753cd745d159671cb039b597f9168aee8ded32",
    "mnist:train": "a0469bf66405a30ae36045654fbe6a697acb4907b18af3565edb2804e3e7eadb",
    "fashion-mnist:test": "6f609ec92f93e2cac4fb7d4766838c1b43c37e73aead62a3ac0afeb6f2ad3228",
    "cifar10:train": "079e579eafd3bdd53244fd2b9ba8e5b12f1fad8cb2f51fa8e89dd3a4a6f8676a",
}
FIRST_1000_OF_CIFAR10 = "710eaabea727bf733219edf6413bfdd3d406dd078abe9a11a6d54e766d17a510"


def load_without_download(text: str):
    """The split, if ROBENCH_DATA itself holds it."""
    name, _, part = text.partition(":")
    own = Places(Path(ROBENCH_DATA), cache=Path(ROBENCH_DATA))
    source = {
        "mnist": replace(mnist.MNIST, mirrors=()),
        "fashion-mnist": replace(mnist.FASHION_MNIST, mirrors=()),
        "cifar10": replace(cifar10.CIFAR10, urls=()),
    }[name]
    try:
        return source.read(part, own)
    except UserError as error:
        if "is not on this machine" in str(error):
            pytest.skip(str(error))
        raise


@pytest.mark.costly
@real
@pytest.mark.parametrize("text", ["mnist:test", "mnist:train", "fashion-mnist:test"])
def test_the_real_images_have_the_hash_they_had(text):
    assert load_without_download(text).sha256 == PUBLISHED[text]


@real
def test_the_first_1000_real_cifar10_test_images_have_the_hash_they_had():
    assert load_without_download("cifar10:test").take(range(1000)).sha256 == FIRST_1000_OF_CIFAR10


def mean_and_std(x: torch.Tensor) -> list[list[float]]:
    pixels = x.double().transpose(0, 1).flatten(1)
    return [[round(v, 4) for v in values.tolist()] for values in (pixels.mean(1), pixels.std(1, correction=0))]


def assert_stated_moments(name: str, x: torch.Tensor) -> None:
    data = datasets.DATASETS[name]
    assert mean_and_std(x) == [list(data.mean), list(data.std)]


def test_mean_and_std_of_digits_are_as_stated():
    assert_stated_moments("digits", datasets.load("digits:train").x)


@real
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_mean_and_std_are_those_of_the_real_training_images(name):
    assert_stated_moments(name, load_without_download(f"{name}:train").x)


@real
@pytest.mark.slow  # the training images of CIFAR-10 may take half a minute to unpack
def test_real_cifar10_training_images_have_the_stated_hash_mean_and_std():
    split = load_without_download("cifar10:train")
    assert split.sha256 == PUBLISHED["cifar10:train"]
    assert_stated_moments("cifar10", split.x)
