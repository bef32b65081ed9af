"""The user's own images in files: folders of pictures, label maps, resizing, and what an .npz file may declare."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from robench.errors import UserError
from robench.problem import datasets
from robench.problem.cautions import of_class_names
from robench.problem.datasets import label_map, npz
from robench.problem.datasets.arrays import split_of_arrays, whole_labels
from robench.problem.datasets.preparation import Preparation
from robench.problem.split import shuffled_rows


def message_of(call) -> str:
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def photos(tmp_path):
    """Four pictures of three classes, 6x5, in folders that are not made in order."""
    for i, name in enumerate(["dog/b.png", "cat/z.bmp", "dog/a.png", "emu/c.png"]):
        save(tmp_path / "photos" / name, noise(6, 5, i))
    (tmp_path / "photos" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "photos" / ".thumbnails").mkdir()
    return tmp_path / "photos"


# Folders


def test_a_folder_is_read_in_the_order_of_image_folder(photos):
    split = datasets.load(str(photos))
    assert (split.name, split.shape, split.classes) == ("photos", (3, 6, 5), 3)
    assert split.y.tolist() == [0, 1, 1, 2]
    assert dict(split.class_names) == {"cat": 0, "dog": 1, "emu": 2}
    expected = np.stack([noise(6, 5, i) for i in (1, 2, 0, 3)]).transpose(0, 3, 1, 2)
    assert np.array_equal(split.x.numpy(), (expected / 255).astype(np.float32))


def test_only_the_selected_images_are_decoded(photos):
    (photos / "emu" / "c.png").write_bytes((photos / "emu" / "c.png").read_bytes()[:60])
    source = datasets.source(str(photos))
    assert len(source) == 4
    assert source.part("1:3").numbers == (1, 2)
    assert "c.png is damaged" in message_of(lambda: source.part("4"))


def test_a_part_of_a_folder_is_that_part_of_the_whole(photos):
    whole = datasets.load(str(photos))
    assert datasets.source(str(photos)).part("1:3").sha256 == whole.part("1:3").sha256
    assert datasets.load(str(photos), numbers=(3, 1)).numbers == (3, 1)


def test_grey_pictures_stay_grey_unless_colour_is_wanted(tmp_path):
    for name in ("0/a.png", "1/b.png"):
        save(tmp_path / "d" / name, noise(4, 4)[:, :, 0])
    assert datasets.load(str(tmp_path / "d")).shape == (1, 4, 4)
    colour = datasets.load(str(tmp_path / "d"), preparation=Preparation(channels="3"))
    assert colour.shape == (3, 4, 4)
    assert torch.equal(colour.x[:, 0], colour.x[:, 2])


def test_palettes_and_transparency_become_colours(tmp_path):
    image = Image.fromarray(noise(4, 4))
    (tmp_path / "d" / "0").mkdir(parents=True)
    image.convert("RGBA").save(tmp_path / "d" / "0" / "a.png")
    image.save(tmp_path / "d" / "0" / "b.png")
    a, b = datasets.load(str(tmp_path / "d")).x
    assert torch.equal(a, b)


def test_the_name_of_a_data_set_takes_precedence_over_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "digits" / "0" / "a.png", noise(4, 4))
    assert datasets.load("digits").name == "digits:test"
    assert datasets.load("./digits").shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda d: save(d / "a.png", noise(4, 4)), "has images but no subfolders"),
        (lambda d: (d / "cat").mkdir(), "holds no images in its subfolders"),
        (lambda d: d.mkdir(exist_ok=True), "has no subfolders"),
        (lambda d: [(d / part).mkdir() for part in ("train", "val")], "holds train and val; name one of them"),
        (lambda d: [save(d / f"c/{n}.png", noise(n, 4)) for n in (4, 5)], "have different sizes"),
        (lambda d: [(d / "c").mkdir(), (d / "c/x.png").write_text("no")], "is not an image that Pillow can read"),
        (lambda d: save(d / "c/x.png", np.zeros((4, 4), dtype=np.uint16)), "not of 8 bits"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_one_sentence(tmp_path, make, sentence):
    folder = tmp_path / "d"
    folder.mkdir()
    make(folder)
    assert sentence in message_of(lambda: datasets.load(str(folder)))


def test_a_missing_folder_is_named():
    assert "there is no folder nowhere/val" in message_of(lambda: datasets.load("nowhere/val"))


def test_images_that_exceed_the_memory_are_refused_before_decoding(photos, monkeypatch):
    monkeypatch.setattr("robench.problem.datasets.pictures.LARGEST", 3 * 4 * 6 * 5 * 3 - 1)
    assert "use fewer with --examples" in message_of(lambda: datasets.source(str(photos)).part("3"))
    assert len(datasets.source(str(photos)).part("2")) == 2


# Resizing


def test_the_shorter_side_is_resized_and_the_middle_is_cut_out():
    image = Image.fromarray(noise(40, 60))
    assert Preparation(resize="20").apply(image, "x").size == (30, 20)
    assert Preparation(resize="20x10").apply(image, "x").size == (10, 20)
    cut = np.asarray(Preparation(crop="11x20").apply(image, "x"))
    assert np.array_equal(cut, noise(40, 60)[14:25, 20:40])  # 14.5 is rounded to even, as torchvision does


def test_bilinear_resizing_is_antialiased_as_in_torch():
    pixels = noise(64, 48)
    ours = np.asarray(Preparation(resize="16").apply(Image.fromarray(pixels), "x"), dtype=np.float32)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    theirs = F.interpolate(x, size=(21, 16), mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()
    assert np.abs(ours - theirs).max() <= 1.01  # Pillow rounds to bytes twice


def test_images_of_different_sizes_are_brought_to_one(tmp_path):
    for n in (30, 40):
        save(tmp_path / "d" / "c" / f"{n}.png", noise(n, 50))
    split = datasets.load(str(tmp_path / "d"), preparation=Preparation(resize="24", crop="20"))
    assert split.shape == (3, 20, 20)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"resize": "big"}, "--resize big is not a size; write a number of pixels like 256"),
        ({"crop": "0"}, "--crop 0 is out of range"),
        ({"crop": "1x2x3"}, "is not a size"),
        ({"resize": "99999"}, "is out of range"),
        ({"resize": "8", "interpolation": "bilinaer"}, "did you mean bilinear"),
        ({"interpolation": "nearest"}, "give --resize too"),
        ({"channels": "4"}, "neither 1 (grey) nor 3 (colour)"),
    ],
)
def test_an_option_that_cannot_be_read_is_refused(options, sentence):
    assert sentence in message_of(lambda: Preparation(**options))


def test_a_crop_larger_than_the_image_names_the_resize_it_needs(photos):
    message = message_of(lambda: datasets.load(str(photos), preparation=Preparation(crop="8")))
    assert "is 6x5, smaller than --crop 8; give --resize 8 or more too" in message


def test_options_for_folders_are_refused_for_arrays():
    message = message_of(lambda: datasets.load("digits", preparation=Preparation(resize="8")))
    assert message == "--resize 8 is for images in a folder; leave it out for digits"


# Label maps


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"0": ["n01440764", "tench"], "7": ["n01514668", "cock"]}),
        json.dumps({"tench": 0, "cock": 7}),
        json.dumps({"0": "tench", "7": "cock"}),
        json.dumps(["tench", "1", "2", "3", "4", "5", "6", "cock"]),
        "tench\n1\n2\n3\n4\n5\n6\ncock\n",
        "n01440764 tench\n1\n2\n3\n4\n5\n6\nn01514668 cock, rooster\n",
    ],
)
def test_the_usual_files_map_classes_to_outputs(tmp_path, text):
    (tmp_path / "map").write_text(text)
    read = label_map.read(tmp_path / "map")
    name = "cock" if "cock, rooster" not in text else "n01514668"
    assert (read.output(name), read.classes) == (7, 8)


def test_a_folder_takes_its_labels_from_the_map(photos, tmp_path):
    (tmp_path / "map.json").write_text(json.dumps({"5": ["n1", "Cat"], "2": ["n2", "dog"], "9": ["n3", "emu"]}))
    split = datasets.load(str(photos), preparation=Preparation(labels=str(tmp_path / "map.json")))
    assert (split.y.tolist(), split.classes) == ([5, 2, 2, 9], 10)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"0": "dog", "1": "emu"}', "no class of"),
        ('{"0": "cat", "1": "cat", "2": "dog", "3": "emu"}', "several outputs called 'cat'"),
        ('{"0": 1.5}', "cannot be read; write it like"),
        ('{"0": ["a"', "cannot be read"),
        ('{"-1": "cat"}', "cannot be read"),
        ("", "cannot be read"),
        ("cat\n\ndog", "cannot be read"),
        ("[" * 100000, "cannot be read"),
    ],
)
def test_a_label_map_that_does_not_fit_is_refused(photos, tmp_path, text, sentence):
    (tmp_path / "map").write_text(text)
    options = Preparation(labels=str(tmp_path / "map"))
    assert sentence in message_of(lambda: datasets.load(str(photos), preparation=options))


def test_list_positions_are_not_used_silently_as_outputs_of_a_larger_model(photos):
    split = datasets.load(str(photos))
    assert of_class_names(split, 3, mapped=False) == "classes of photos: 0 cat, 1 dog, 2 emu"
    assert "the model has 1000 outputs" in of_class_names(split, 1000, mapped=False)
    assert "outputs" not in of_class_names(split, 1000, mapped=True)
    assert of_class_names(datasets.load("digits"), 10, mapped=False) == ""


# Labels


@pytest.mark.parametrize(
    "y",
    [
        np.array([2, 0, 1]),
        np.array([[2], [0], [1]]),
        np.array([2.0, 0, 1]),
        np.array([[2.0], [0], [1]]),
        np.eye(3)[[2, 0, 1]],
        np.eye(3, dtype=bool)[[2, 0, 1]],
        np.array([2, 0, 1], dtype=np.uint64),
    ],
)
def test_labels_are_read_as_other_tools_write_them(y):
    assert whole_labels(y, "y").tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("y", "sentence"),
    [
        (np.array([True, False]), "number the classes 0 and 1"),
        (np.array([0, 2**63], dtype=np.uint64), "holds the label 9.22337e+18"),
        (np.array([0, 1e300]), "holds the label 1e+300"),
        (np.array([[0.2, 0.8], [1, 0]]), "is not one-hot"),
        (np.array([[1, 1], [1, 0]]), "is not one-hot"),
        (np.zeros((2, 1, 1)), "has shape (2, 1, 1)"),
        (np.zeros(0), "is empty"),
        (np.tile(np.arange(1, 11), 3), "the labels 1 to 10 and no 0; classes are numbered from 0: subtract 1"),
    ],
)
def test_labels_that_mean_something_else_are_refused_with_the_cure(y, sentence):
    assert sentence in message_of(lambda: whole_labels(y, "y"))


def test_labels_from_1_are_accepted_if_the_number_of_classes_is_given(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((9, 4, 4)), y=[1, 2, 3] * 3, classes=4)
    assert datasets.load(str(tmp_path / "a.npz")).classes == 4
    np.savez(tmp_path / "b.npz", x=np.zeros((9, 4, 4)), y=[1, 2, 3] * 3, classes=3)
    assert "the number of classes is 3" in message_of(lambda: datasets.load(str(tmp_path / "b.npz")))


def test_bytes_of_0_and_1_are_refused():
    x = np.zeros((2, 4, 4), dtype=np.uint8)
    x[0, 0, 0] = 1
    assert "only the uint8 pixels 0 and 1" in message_of(lambda: split_of_arrays("d", x, np.array([0, 1]), "d"))


# What a file declares


def archive(path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(f"{name}.npy", data)


def npy(array: np.ndarray) -> bytes:
    with io.BytesIO() as file:
        np.save(file, array)
        return file.getvalue()


def test_a_small_file_that_unpacks_to_much_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "LARGEST", 10**6)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((2000, 1, 28, 28), dtype=np.uint8), y=np.zeros(2000, dtype=int))
    message = message_of(lambda: datasets.load(str(tmp_path / "a.npz")))
    assert message.startswith(f"{tmp_path / 'a.npz'}: x unpacks to 0.0 GB from a file of 0.0 MB")


def test_an_array_that_declares_more_than_the_file_holds_is_damaged(tmp_path):
    whole = npy(np.zeros((9, 4, 4)))
    archive(tmp_path / "a.npz", x=whole.replace(b"(9, 4, 4), }      ", b"(9999999, 4, 4), }"), y=npy(np.arange(9)))
    assert "more than it holds" in message_of(lambda: datasets.load(str(tmp_path / "a.npz")))


# An order that mixes classes


def test_the_shuffled_order_has_every_row_once_and_mixes_sorted_classes():
    order = shuffled_rows(1000)
    assert sorted(order) == list(range(1000))
    assert order == shuffled_rows(1000)
    assert len({row // 100 for row in order[:60]}) == 10  # ten classes, one after the other
