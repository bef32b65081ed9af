"""Tiny-ImageNet, from a made-up archive: a training image for each class, and six validation images."""

import io
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robench.problem import datasets
from robench.problem.datasets.files import Places
from robench.problem.datasets.tiny_imagenet import TINY_IMAGENET, TinyImageNet
from robench.problem.split import Split, Undecoded

from .originals import md5, message_of, noise, places, sha256, write
from .serving import left_in

IDS = [f"n{k:08d}" for k in range(200)]
LABELS = [7, 199, 0, 7, 30, 2]
IMAGES = noise(6, 8, 8, 3).repeat(8, axis=1).repeat(8, axis=2)


def jpeg(image: np.ndarray, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).convert(mode).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def original_files() -> dict[str, bytes]:
    """The files of the archive; the ids are in no order, and a validation image is grey, as 168 of the real ones."""
    lines = [f"val_{i}.JPEG\t{IDS[label]}\t0\t0\t9\t9\n" for i, label in enumerate(LABELS)]
    files = {"wnids.txt": "\n".join(reversed(IDS)).encode(), "val/val_annotations.txt": "".join(lines[::-1]).encode()}
    files |= {f"val/images/val_{i}.JPEG": jpeg(image, "L" if i == 2 else "RGB") for i, image in enumerate(IMAGES)}
    files |= {f"train/{wnid}/images/{wnid}_0.JPEG": jpeg(IMAGES[k % 6]) for k, wnid in enumerate(IDS)}
    files |= {f"train/{IDS[3]}/images/{IDS[3]}_{n}.JPEG": jpeg(IMAGES[n % 6]) for n in (10, 2)}
    return files | {"test/images/test_0.JPEG": jpeg(IMAGES[0]), f"train/{IDS[3]}/{IDS[3]}_boxes.txt": b"1 2 3 4"}


FILES = original_files()


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(f"tiny-imagenet-200/{name}"), data)  # the same bytes at any time
    return buffer.getvalue()


def like_the_original(archive: bytes, *urls: str) -> TinyImageNet:
    return TinyImageNet("tiny-imagenet-200.zip", md5(archive), sha256(archive), urls, count=len(LABELS))


ARCHIVE = zipped(FILES)


@pytest.fixture
def toy():
    return like_the_original(ARCHIVE)


def lay(form: str, folder: Path) -> None:
    match form:
        case "archive":
            write(folder, **{"tiny-imagenet-200.zip": ARCHIVE})
        case "archive in a folder":
            write(folder / "tiny-imagenet", **{"tiny-imagenet-200.zip": ARCHIVE})
        case _:
            for name, data in FILES.items():
                path = folder / form / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)


FORMS = ["archive", "archive in a folder", "tiny-imagenet-200", "tiny-imagenet/tiny-imagenet-200", "tiny-imagenet"]


@pytest.mark.parametrize("form", FORMS)
def test_the_validation_images_are_the_test_part_in_every_form(toy, tmp_path, form):
    lay(form, tmp_path)
    assert toy.here("test", places(tmp_path))
    split = toy.read("test", places(tmp_path))
    assert isinstance(split, Split)
    assert (split.name, split.classes, split.shape) == ("tiny-imagenet:test", 200, (3, 64, 64))
    assert split.y.tolist() == LABELS  # the place of each id in sorted order, not in wnids.txt
    assert split.numbers == tuple(range(6))
    for i, x in enumerate(split.x.numpy()):
        pixels = decoded(FILES[f"val/images/val_{i}.JPEG"])
        assert np.array_equal(x.transpose(1, 2, 0), (pixels / 255).astype(np.float32))


@pytest.mark.parametrize("form", FORMS)
def test_training_images_are_in_the_order_of_image_folder_and_decoded_when_taken(toy, tmp_path, form):
    lay(form, tmp_path)
    train = toy.read("train", places(tmp_path))
    assert isinstance(train, Undecoded)
    assert len(train) == 202
    assert list(train.labels) == [0, 1, 2, 3, 3, 3, *range(4, 200)]
    taken = train.take([4, 0])  # n00000003_10 comes before n00000003_2, as text does
    assert (taken.name, taken.numbers, taken.y.tolist()) == ("tiny-imagenet:train", (4, 0), [3, 0])
    pixels = decoded(FILES[f"train/{IDS[3]}/images/{IDS[3]}_10.JPEG"])
    assert np.array_equal(taken.x[0].numpy().transpose(1, 2, 0), (pixels / 255).astype(np.float32))


def test_only_files_without_a_checksum_are_warned_of(toy, tmp_path, caplog):
    lay("archive", tmp_path / "zip")
    assert not toy.read("test", places(tmp_path / "zip")).caution
    toy.read("train", places(tmp_path / "zip"))
    assert not caplog.records
    lay("tiny-imagenet-200", tmp_path / "unpacked")
    split = toy.read("test", places(tmp_path / "unpacked"))
    words = "tiny-imagenet-200 holds the unpacked files of tiny-imagenet:{}; no checksum is published for it"
    assert split.part("stratified:2").caution.startswith(words.format("test"))
    assert not caplog.records
    toy.read("train", places(tmp_path / "unpacked"))
    assert words.format("train") in caplog.text


def test_the_archive_is_downloaded_once_for_both_parts(server, tmp_path):
    server.files["tiny-imagenet-200.zip"] = ARCHIVE
    served = like_the_original(ARCHIVE, server.address + "tiny-imagenet-200.zip")
    cache = Places(own=None, cache=tmp_path / "cache")
    assert served.read("test", cache).y.tolist() == LABELS
    assert len(served.read("train", cache)) == 202
    assert server.requested_paths == ["tiny-imagenet-200.zip"]
    assert left_in(tmp_path) == ["tiny-imagenet-200.zip"]


def test_another_archive_is_refused_before_it_is_opened(toy, tmp_path):
    write(tmp_path, **{"tiny-imagenet-200.zip": zipped({**FILES, "wnids.txt": b""})})
    message = message_of(lambda: toy.read("test", places(tmp_path)))
    assert message.startswith(f"{tmp_path / 'tiny-imagenet-200.zip'} is not the published file (md5 ")


def annotations(*lines: str) -> dict[str, bytes]:
    return {"val/val_annotations.txt": "".join(f"{line}\n" for line in lines).encode()}


NORMAL = [f"val_{i}.JPEG\t{IDS[label]}\t0" for i, label in enumerate(LABELS)]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"wnids.txt": "\n".join(IDS[1:]).encode()}, "wnids.txt is damaged (it does not hold 200 WordNet ids"),
        ({"wnids.txt": "\n".join([*IDS[1:], IDS[1]]).encode()}, "it does not hold 200 WordNet ids"),
        ({"wnids.txt": b"\xff"}, "wnids.txt is damaged ("),
        (annotations(*NORMAL[:-1]), "it does not describe the images 0 to 5"),
        (annotations(*NORMAL, f"val_6.JPEG\t{IDS[0]}\t0"), "it does not describe the images 0 to 5"),
        (annotations(*NORMAL[:-1], "val_5.JPEG\tn99999999\t0"), "it has the line 'val_5.JPEG\\tn99999999\\t0'"),
        (annotations(*NORMAL[:-1], f"../val_5.JPEG\t{IDS[0]}"), "it has the line '../val_5.JPEG"),
        ({"val/images/val_3.JPEG": b"no image"}, "val/images/val_3.JPEG is not an image that Pillow can read"),
        ({"val/images/val_3.JPEG": jpeg(IMAGES[3][:32])}, "have different sizes"),
    ],
)
@pytest.mark.parametrize("unpacked", [False, True])
def test_other_contents_are_refused_by_name(tmp_path, other, reason, unpacked):
    files = {**FILES, **other}
    toy = like_the_original(zipped(files))
    if unpacked:
        lay("tiny-imagenet-200", tmp_path)
        for name, data in other.items():
            (tmp_path / "tiny-imagenet-200" / name).write_bytes(data)
    else:
        write(tmp_path, **{"tiny-imagenet-200.zip": zipped(files)})
    assert reason in message_of(lambda: toy.read("test", places(tmp_path)))


def test_images_of_another_size_are_refused(tmp_path):
    small = {f"val/images/val_{i}.JPEG": jpeg(image[:32, :32]) for i, image in enumerate(IMAGES)}
    archive = zipped({**FILES, **small})
    write(tmp_path, **{"tiny-imagenet-200.zip": archive})
    message = message_of(lambda: like_the_original(archive).read("test", places(tmp_path)))
    assert "val_0.JPEG is damaged (it has the shape (32, 32, 3)" in message


def test_a_training_class_without_images_is_refused(tmp_path):
    archive = zipped({name: data for name, data in FILES.items() if IDS[9] not in name})
    write(tmp_path, **{"tiny-imagenet-200.zip": archive})
    message = message_of(lambda: like_the_original(archive).read("train", places(tmp_path)))
    assert "does not hold images of the 200 classes in wnids.txt" in message


# Images that were decoded before


def arrays(**other) -> dict[str, np.ndarray]:
    return {"x_val": IMAGES[1:4], "y_val": np.array(LABELS[1:4]), "index": np.array([1, 2, 5]), **other}


def test_decoded_images_keep_the_numbers_that_they_have_in_the_archive(toy, tmp_path):
    np.savez(tmp_path / "tiny_imagenet_val_1000.npz", **arrays())
    split = toy.read("test", places(tmp_path))
    assert (split.name, split.classes, split.numbers) == ("tiny-imagenet:test", 200, (1, 2, 5))
    assert split.y.tolist() == LABELS[1:4]
    assert np.array_equal(split.x.numpy().transpose(0, 2, 3, 1), (IMAGES[1:4] / 255).astype(np.float32))
    assert "holds 3 of the 6 images of tiny-imagenet:test; no checksum is published" in split.caution
    assert not toy.here("train", places(tmp_path))


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"x_val": IMAGES[1:4] / 255}, "images float64"),
        ({"x_val": IMAGES[:4]}, "images uint8 (4, 64, 64, 3) with labels int64 (3,)"),
        ({"x_val": IMAGES[1:4, :32]}, "images uint8 (3, 32, 64, 3)"),
        ({"y_val": np.array([0, 1, 200])}, "y_val does not hold labels from 0 to 199"),
        ({"y_val": np.array([0, -1, 2])}, "y_val does not hold labels from 0 to 199"),
        ({"y_val": np.array([0.0, 1.0, 2.0])}, "with labels float64"),
        ({"index": np.array([1, 1, 5])}, "index does not hold increasing numbers from 0 to 5"),
        ({"index": np.array([2, 1, 5])}, "index does not hold increasing numbers"),
        ({"index": np.array([1, 2, 6])}, "index does not hold increasing numbers"),
        ({"index": np.array([1, 2])}, "index does not hold increasing numbers"),
        ({"index": np.array([[1], [2], [5]])}, "index does not hold increasing numbers"),
        ({"y_val": np.int64(3), "index": np.int64(3)}, "with labels int64 ()"),
        ({"x_val": IMAGES[:0], "y_val": np.array([], int), "index": np.array([], int)}, "index does not hold"),
        ({"index": np.array([1, 2, None])}, "index holds Python objects"),
    ],
)
def test_decoded_images_that_do_not_fit_are_refused(toy, tmp_path, other, reason):
    np.savez(tmp_path / "tiny_imagenet_val.npz", **arrays(**other))
    message = message_of(lambda: toy.read("test", places(tmp_path)))
    assert message.startswith(str(tmp_path / "tiny_imagenet_val.npz"))
    assert reason in message


# The real images

REAL = Path(os.environ.get("ROBENCH_DATA", "")) / "tiny_imagenet_val_1000.npz"


@pytest.mark.skipif(not REAL.is_file(), reason="set ROBENCH_DATA to a folder with tiny_imagenet_val_1000.npz")
def test_the_first_five_real_images_of_each_class_have_the_hash_they_had(tmp_path):
    (tmp_path / REAL.name).symlink_to(REAL)
    split = replace(TINY_IMAGENET, urls=()).read("test", places(tmp_path))
    assert split.y.bincount().tolist() == [5] * 200
    assert split.numbers[-1] == 3168
    assert split.sha256 == "53b3fdeaa54244d1ad675970d1aca3037993f86bd19a059b2c4a2268ec1c7263"


def test_the_published_archive_holds_10000_validation_images_in_200_classes():
    assert (TINY_IMAGENET.count, datasets.DATASETS["tiny-imagenet"].classes) == (10_000, 200)
