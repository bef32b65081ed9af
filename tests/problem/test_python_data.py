"""What a caller of `robench.evaluate` may pass as data: every form is the same examples, anything else a sentence."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from robench.errors import UserError
from robench.problem import datasets
from robench.problem.datasets.preparation import Preparation
from robench.problem.datasets.python_data import source_of

N = 12
BYTES = np.random.default_rng(0).integers(0, 256, (N, 3, 8, 6), dtype=np.uint8)
X = torch.from_numpy((BYTES / np.float32(255)).astype(np.float32))
Y = torch.arange(N) % 4


class Pairs(Dataset):
    """Of images and labels, each made by a function of its row."""

    def __init__(self, image, label=lambda i: int(Y[i])):
        self.image, self.label = image, label
        self.read = []

    def __len__(self):
        return N

    def __getitem__(self, i):
        self.read.append(i)
        return self.image(i), self.label(i)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


class HuggingFace:
    """As a `datasets.Dataset` answers."""

    def __init__(self, image="image", label="label", names=("a", "b", "c", "d"), cell=None):
        self.features = {image: None, label: SimpleNamespace(names=list(names))}
        self.column_names = list(self.features)
        self.info, self.split = SimpleNamespace(builder_name="toy"), "test"
        self._cell = cell or picture

    def __len__(self):
        return N

    def __getitem__(self, i):
        image, label = self.column_names
        return {image: self._cell(i), label: int(Y[i])}


def picture(i):
    return Image.fromarray(BYTES[i].transpose(1, 2, 0))


def stored(i):
    """An image column that is not decoded."""
    import io

    with io.BytesIO() as file:
        picture(i).save(file, "PNG")
        return {"bytes": file.getvalue(), "path": None}


def as_dictionaries(batch):
    return {"pixel_values": torch.stack([x for x, _ in batch]), "labels": torch.tensor([y for _, y in batch])}


def tensors():
    return Pairs(lambda i: X[i])


FORMS = {
    "tensors": lambda: (X, Y),
    "a list": lambda: [X, Y],
    "arrays": lambda: (X.numpy(), Y.numpy()),
    "bytes, channels last": lambda: (BYTES.transpose(0, 2, 3, 1), Y.numpy()),
    "lists of tensors": lambda: (list(X), Y.tolist()),
    "double": lambda: (X.double(), Y.double()),
    "with gradients": lambda: (X.clone().requires_grad_(), Y),
    "one-hot": lambda: (X, torch.eye(4)[Y]),
    "a column of labels": lambda: (X, Y[:, None]),
    "a Split": lambda: datasets.Split.whole("mine", X, Y, 4),
    "TensorDataset": lambda: TensorDataset(X, Y),
    "Dataset": tensors,
    "Dataset of PIL images": lambda: Pairs(picture),
    "Dataset of dictionaries": lambda: SimpleItems(),
    "Subset": lambda: Subset(tensors(), range(N)),
    "loader": lambda: DataLoader(tensors(), batch_size=5),
    "loader of tensors": lambda: DataLoader(TensorDataset(X, Y), batch_size=5),
    "shuffling loader": lambda: DataLoader(tensors(), batch_size=5, shuffle=True),
    "loader with a collate function": lambda: DataLoader(tensors(), collate_fn=as_dictionaries),
    "Hugging Face": HuggingFace,
    "Hugging Face, other columns": lambda: HuggingFace("img", "fine_label"),
    "Hugging Face, not decoded": lambda: HuggingFace(cell=stored),
    "loader of Hugging Face": lambda: DataLoader(HuggingFace()),
}


class SimpleItems(Dataset):
    def __len__(self):
        return N

    def __getitem__(self, i):
        return {"image": X[i], "label": Y[i]}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_examples(form):
    expected = datasets.Split.whole("mine", X, Y, 4)
    source = source_of(FORMS[form]())
    assert source.take(range(N)).sha256 == expected.sha256
    assert source.part("3:7").sha256 == expected.part("3:7").sha256
    assert source.part("3:7").numbers == (3, 4, 5, 6)
    assert source.part("12").classes == 4


def test_a_data_set_is_read_no_further_than_the_examples_reach():
    data = tensors()
    source_of(data).part("2")
    assert set(data.read) == {0, 1}


def test_pil_images_are_prepared_and_their_classes_mapped(tmp_path):
    (tmp_path / "map.txt").write_text("d\nc\nb\na\n")
    options = Preparation(resize="4x4", labels=str(tmp_path / "map.txt"))
    split = source_of(HuggingFace(), options).part("4")
    assert (split.shape, split.y.tolist()) == ((3, 4, 4), [3, 2, 1, 0])


def test_a_training_part_keeps_its_name():
    assert source_of(HuggingFace()).name == "toy:test"
    data = tensors()
    data.train = True
    assert source_of(data).name == source_of(Subset(data, [1, 2])).name == "pairs:train"


RANDOM = torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (lambda: X, "data=Tensor cannot be read as data: it holds no labels; give both, as (x, y)"),
        (lambda: X.numpy(), "data=ndarray cannot be read as data: it holds no labels"),
        (lambda: {"x": X, "y": Y}, "data=dict of x, y cannot be read as data; give its images and labels as (x, y)"),
        (lambda: (X,), "data=tuple of 1 value cannot be read as data; give two, (x, y)"),
        (lambda: (X, ["cat"] * len(X)), "y holds texts such as 'cat', not numbers; give the number of a class"),
        (lambda: (X, None), "data: y is None, not numbers; give the number of a class"),
        (lambda: (X, [0] * (len(X) - 1) + [None]), "data: y holds objects such as NoneType, not numbers"),
        (lambda: (X.numpy().astype(complex), Y), "data: x holds complex128, not numbers; give images as floats"),
        (lambda: (X.to("meta"), Y), "without its values (device meta); give a dense one"),
        (lambda: 5, "data=int cannot be read as data"),
        (lambda: (X, Y, Y), "data=tuple of 3 values cannot be read as data; give two, (x, y)"),
        (lambda: ((X, Y), (X, Y)), "holds two pairs"),
        (lambda: iter([1]), "data=list_iterator can be read only once"),
        (lambda: (pair for pair in zip(X, Y, strict=True)), "data=generator can be read only once"),
        (Stream, "data=Stream can be read only once"),
        (lambda: DataLoader(Stream()), "data=Stream can be read only once"),
        (lambda: ([X[0], X[1, :, :4]], [0, 1]), "images of different sizes, (3, 4, 6) and (3, 8, 6)"),
        (lambda: ([X[0].numpy(), X[1, :, :4].numpy()], [0, 1]), "images of different sizes"),
        (lambda: ([[1, 2], [3]], [0, 1]), "is not an array of numbers"),
        (lambda: (X, Y[:5]), "data has 12 images in x but 5 labels in y"),
        (lambda: (X[:0], Y[:0]), "x is empty"),
        (lambda: (X * float("nan"), Y), "NaN or infinite"),
        (lambda: (X * 255, Y), "divide them by 255"),
        (lambda: (X.to_sparse(), Y), "torch.sparse_coo; give a dense one"),
        (lambda: Pairs(lambda i: torch.rand(3, 8, 6, generator=RANDOM)), "returns another image each time"),
        (lambda: Pairs(lambda i: X[i, :, : 8 - i]), "images of different sizes"),
        (lambda: Pairs(lambda i: 1 / 0), "fails on item 0 with ZeroDivisionError"),
        (lambda: Unpaired(), "has items of type Tensor; robench reads pairs"),
        (lambda: Subset(tensors(), []), "data=Subset is empty"),
        (lambda: DataLoader(tensors(), sampler=SubsetRandomSampler([1, 2])), "with SubsetRandomSampler"),
        (lambda: DataLoader(tensors(), sampler=WeightedRandomSampler([1.0] * N, N)), "with WeightedRandomSampler"),
        (lambda: DataLoader(tensors(), sampler=RandomSampler(range(N), replacement=True)), "with RandomSampler"),
        (lambda: DataLoader(tensors(), sampler=[3, 1]), "chooses its images with list"),
        (lambda: {"train": HuggingFace(), "test": HuggingFace()}, "data=dict holds the parts train, test; give one"),
        (lambda: {"test": HuggingFace()}, "data=dict holds the part test; give it, as data[...]"),
        (lambda: HuggingFace(image="photo"), "has the columns photo, label, and none for images"),
        (lambda: HuggingFace(names=("a", "b")), "holds labels outside its 2 classes"),
        (lambda: HuggingFace(cell=lambda i: "path"), "x holds texts such as 'path', not numbers"),
    ],
)
def test_an_object_that_is_not_data_is_refused_in_one_short_sentence(data, sentence):
    with pytest.raises(UserError) as caught:
        source_of(data()).part("3")
    message = str(caught.value)
    assert sentence in message
    assert "\n" not in message
    assert len(message) < 300


class Unpaired(Dataset):
    def __len__(self):
        return N

    def __getitem__(self, i):
        return X[i]


@pytest.mark.parametrize("data", [(X, Y), TensorDataset(X, Y), tensors(), datasets.Split.whole("mine", X, Y, 4)])
def test_images_that_are_tensors_already_are_not_resized(data):
    with pytest.raises(UserError, match="--resize 4 is for"):
        source_of(data, Preparation(resize="4")).part("2")
