"""Data passed to `robench.evaluate` as Python objects: arrays, PyTorch and Hugging Face data sets, data loaders."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
)
from torch.utils.data import Dataset as TorchDataset

from ...errors import UserError, counted
from ..split import Source, Split, Undecoded
from . import label_map, pictures
from .arrays import Array, split_of_arrays
from .preparation import Preparation

IMAGES = ("image", "img", "images", "pixel_values", "x")  # columns and keys of images; the first present counts
LABELS = ("label", "labels", "fine_label", "y", "target")
GIVEN = {
    "x": "give images as floats from 0 to 1, or as bytes, all of one size",
    "y": "give the number of a class for each image: 0, 1, 2, ...",
}
WANTED = (
    "robench accepts (x, y), a torch Dataset or DataLoader, a Hugging Face data set, a robench.Split, or the name of a"
    " data set, a folder or an .npz file"
)

Collate = Any  # the function of a loader that joins a list of items to a batch


def source_of(data: object, preparation: Preparation | None = None) -> Source:
    """The examples in an object, in its own order. Raises UserError for other objects.

    For a loader, its data set is read in order, even if the loader shuffles. Data sets are read only on access.
    """
    preparation = preparation or Preparation()
    match data:
        case Split():
            return _unprepared(data, preparation, "a robench.Split")
        case TensorDataset() if len(data.tensors) >= 2:
            return _unprepared(_arrays(data.tensors[0], data.tensors[1], "data"), preparation, "tensors")
        case tuple() | list() if _two_parts(data):
            raise UserError(
                f"data={_kind(data)} holds two pairs, as for training and testing; give one of them, (x, y)"
            )
        case tuple() | list() if len(data) == 2:
            return _unprepared(_arrays(data[0], data[1], "data"), preparation, "arrays")
        case DataLoader():
            return _of_loader(data, preparation)
    if isinstance(data, Mapping) and data and all(hasattr(part, "column_names") for part in data.values()):
        parts, which = ("part", "it") if len(data) == 1 else ("parts", "one of them")
        raise UserError(f"data={_kind(data)} holds the {parts} {', '.join(map(str, data))}; give {which}, as data[...]")
    if hasattr(data, "features") and hasattr(data, "column_names"):
        return _of_hugging_face(data, preparation)
    if isinstance(data, IterableDataset) or (isinstance(data, Iterator) and not hasattr(data, "__getitem__")):
        raise UserError(
            f"data={_kind(data)} can be read only once and has no indexed examples; collect them first, as (x, y)"
        )
    if isinstance(data, TorchDataset) or _map_style(data):
        return _of_data_set(data, None, preparation)
    raise _unreadable(data)


def _unreadable(data: object) -> UserError:
    """The error for an object in which no images with labels are found: what is in it, as far as that is known."""
    if isinstance(data, tuple | list):
        what = f"{_kind(data)} of {counted(len(data), 'value')}"
        return UserError(f"data={what} cannot be read as data; give two, (x, y): the images and their labels")
    if isinstance(data, np.ndarray | Tensor):
        return UserError(f"data={_kind(data)} cannot be read as data: it holds no labels; give both, as (x, y)")
    if isinstance(data, Mapping) and data:
        keys = ", ".join(str(key) for key in list(data)[:8])
        return UserError(f"data={_kind(data)} of {keys} cannot be read as data; give its images and labels as (x, y)")
    return UserError(f"data={_kind(data)} cannot be read as data; {WANTED}")


def _unprepared(split: Split, preparation: Preparation, what: str) -> Split:
    if preparation.known():
        raise UserError(f"{preparation.given()} is for image files and PIL images, and these are {what}; prepare them")
    return split


def _kind(data: object) -> str:
    """The name of the type, because printing the object could fill the screen."""
    return type(data).__name__


def _two_parts(data: Sequence[object]) -> bool:
    """Whether data has the form ((x, y), (x, y))."""
    return len(data) == 2 and all(
        isinstance(part, tuple | list) and len(part) == 2 and len(getattr(part[0], "shape", ())) >= 3 for part in data
    )


def _map_style(data: object) -> bool:
    """Whether an object supports `data[0]` and `len(data)`, but is not a built-in container, text or array."""
    plain = isinstance(data, str | bytes | Mapping | tuple | list | set | np.ndarray | Tensor | range)
    return not plain and hasattr(data, "__getitem__") and hasattr(data, "__len__")


# Arrays


def _arrays(x: object, y: object, name: str) -> Split:
    return split_of_arrays(name, _array(x, "x"), _array(y, "y"), name)


def _array(values: object, what: str) -> Array:
    """The values as a numpy array. Raises UserError for images of different sizes, and for anything but numbers."""
    if isinstance(values, list | tuple) and len(values) and all(isinstance(value, Tensor) for value in values):
        shapes = {tuple(value.shape) for value in values}
        if len(shapes) > 1:
            raise _ragged(what, shapes)
        values = torch.stack(list(values))
    if isinstance(values, Tensor):
        if values.layout != torch.strided or values.is_quantized or values.is_meta or values.is_complex():
            place = ", without its values (device meta)" if values.is_meta else ""
            raise UserError(
                f"data: {what} is a tensor of {values.dtype}, {values.layout}{place}; give a dense one of real numbers"
            )
        narrow = values.dtype in (torch.bfloat16, torch.float16)
        return (values.detach().float() if narrow else values.detach()).cpu().numpy()
    if isinstance(values, list | tuple):
        shapes = {np.shape(value) for value in values if isinstance(value, np.ndarray)}
        if len(shapes) > 1:
            raise _ragged(what, shapes)
    try:
        array = np.asarray(values)
    except Exception:  # ragged lists, and objects that refuse the conversion
        raise UserError(f"data: {what} is not an array of numbers; all images must have the same size") from None
    if array.dtype.kind not in "biuf":
        raise UserError(f"data: {what} {_held(values, array)}, not numbers; {GIVEN[what]}")
    return array


def _held(values: object, array: Array) -> str:
    """What is there in place of numbers: the first text or object of an array, else its type."""
    if values is None:
        return "is None"
    first = array.flat[0] if array.size else None
    if array.dtype.kind in "SU" or (array.dtype.kind == "O" and isinstance(first, str | bytes)):
        return f"holds texts such as {str(first)[:40]!r}"
    if array.dtype.kind == "O":
        return f"holds objects such as {_kind(next((v for v in array.flat if not isinstance(v, int | float)), first))}"
    return f"holds {array.dtype}"


def _ragged(what: str, shapes: set[tuple[int, ...]]) -> UserError:
    one, other = sorted(shapes)[:2]
    return UserError(f"data: {what} holds images of different sizes, {one} and {other}; bring them to one size")


# PyTorch


def _of_loader(loader: DataLoader[Any], preparation: Preparation) -> Source:
    """The examples of a loader, in the order of its data set. Raises UserError if it may omit or repeat some."""
    data_set = loader.dataset
    if isinstance(data_set, IterableDataset):
        return source_of(data_set)
    batches = loader.batch_sampler
    sampler = batches.sampler if type(batches) is BatchSampler else loader.sampler if batches is None else batches
    whole = type(sampler) is SequentialSampler or (
        type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(sampler.data_source)
    )
    if not whole:
        raise UserError(
            f"data=DataLoader chooses its images with {_kind(sampler)}; give them in order, as"
            " torch.utils.data.Subset(dataset, indices)"
        )
    default = loader.collate_fn is torch.utils.data.default_collate or loader.batch_size is None
    collate = None if default or loader.collate_fn.__name__ == "default_collate" else loader.collate_fn
    if collate is None and hasattr(data_set, "features") and hasattr(data_set, "column_names"):
        return _of_hugging_face(data_set, preparation)
    if collate is None and isinstance(data_set, TensorDataset):
        return source_of(data_set, preparation)
    return _of_data_set(data_set, collate, preparation)


def _of_data_set(data: Any, collate: Collate, preparation: Preparation) -> Undecoded:
    """The examples of a map-style data set. Items are (image, label, ...) or dictionaries; images are tensors, arrays
    or PIL images.
    """
    name, count, labels = _title(data), _length(data), {}

    def item(row: int) -> object:
        """The image in a row; also stores its label."""
        try:
            held = collate([data[row]]) if collate else data[row]
        except Exception as error:  # whatever the caller's own code raises
            raise UserError(f"data={_kind(data)} fails on item {row} with {type(error).__name__}: {error}") from error
        image, label = _pair(held, f"data={_kind(data)}")
        labels[row] = _plain(_single(label) if collate else label)
        return _single(image) if collate else image

    def open_picture(row: int) -> tuple[Image.Image, str]:
        image = item(row)
        if not isinstance(image, Image.Image):
            raise UserError(f"data={_kind(data)} returns a PIL image for one item and {_kind(image)} for another")
        return image.copy(), f"item {row} of {name}"

    @lru_cache(maxsize=1)
    def as_grey() -> bool:
        return pictures.grey(open_picture, count, preparation)

    def decode(rows: Sequence[int]) -> Split:
        first = item(rows[0])
        if not _same(first, item(rows[0])):
            raise UserError(
                f"data={_kind(data)} returns another image each time item {rows[0]} is read; remove the random"
                " transforms, as for testing"
            )
        as_pictures = isinstance(first, Image.Image)
        if as_pictures:
            x: Array = pictures.decoded(open_picture, rows, as_grey=as_grey(), preparation=preparation, name=name)
        elif preparation.known():
            raise UserError(f"{preparation.given()} is for PIL images, and these are {_kind(first)}; prepare them")
        else:
            x = _array([_array(item(row), "x") for row in rows], "x")
        listed = getattr(_inner(data), "classes", None)
        known = len(listed) if isinstance(listed, list | tuple) and listed else None
        y = _array([labels[row] for row in rows], "y")
        split = split_of_arrays(name, x, y, f"data={_kind(data)}", classes=known, channels_last=as_pictures)
        return replace(split, numbers=tuple(rows))

    return Undecoded(name, count, decode)


def _inner(data: Any) -> Any:
    """The data set inside any subsets."""
    while isinstance(data, Subset):
        data = data.dataset
    return data


def _title(data: Any) -> str:
    """The name of a data set: `mnist` for torchvision's MNIST, `mnist:train` for its training part."""
    name = _kind(_inner(data)).lower()
    return f"{name}:train" if getattr(_inner(data), "train", None) is True else name


def _length(data: Any) -> int:
    try:
        count = len(data)
    except Exception:  # TypeError, or whatever the caller's own code raises
        raise UserError(f"data={_kind(data)} has no length; add a __len__, or collect it as (x, y)") from None
    if not count:
        raise UserError(f"data={_kind(data)} is empty; give at least one image")
    return count


def _pair(held: object, source: str) -> tuple[object, object]:
    """The image and the label of an item."""
    if isinstance(held, tuple | list) and len(held) >= 2:
        return held[0], held[1]
    if isinstance(held, Mapping):
        image = next((key for key in IMAGES if key in held), None)
        label = next((key for key in LABELS if key in held), None)
        if image is not None and label is not None:
            return held[image], held[label]
        raise UserError(f"{source} has items with {', '.join(map(str, held))}; robench reads image and label")
    raise UserError(f"{source} has items of type {_kind(held)}; robench reads pairs of an image and its label")


def _single(batch: object) -> object:
    """The only row of a batch of one; other values unchanged."""
    return batch[0] if isinstance(batch, Tensor | np.ndarray | list | tuple) and len(batch) == 1 else batch


def _plain(value: object) -> object:
    """A tensor as numpy array; other values unchanged."""
    return _array(value, "y") if isinstance(value, Tensor) else value


def _same(one: object, other: object) -> bool:
    return np.array_equal(np.asarray(_plain(one)), np.asarray(_plain(other)), equal_nan=True)


# Hugging Face


def _of_hugging_face(data: Any, preparation: Preparation) -> Source:
    """The examples of a `datasets.Dataset`, recognised by its columns; the library is not imported."""
    columns = data.column_names
    if not columns or not hasattr(data, "__len__"):
        raise UserError(f"data={_kind(data)} is read as a stream and has no indexed examples; load it whole, or a part")
    image = _column(columns, IMAGES, "images", _kind(data))
    label = _column(columns, LABELS, "labels", _kind(data))
    names = getattr(data.features.get(label), "names", None) or []
    mapped = label_map.read(Path(preparation.labels).expanduser()) if preparation.labels else None
    if mapped and not names:
        raise UserError(f"--labels {preparation.labels} maps names, and the column {label} has none; leave it out")
    outputs = [mapped.output(name) if mapped else number for number, name in enumerate(names)]
    name, count = _name(data), _length(data)

    labels: dict[int, object] = {}

    def item(row: int) -> object:
        """The image in a row; also stores its label."""
        held = data[row]
        labels[row] = _plain(held[label])
        return held[image]

    def open_picture(row: int) -> tuple[Image.Image, str]:
        held, source = item(row), f"item {row} of {name}"
        if isinstance(held, Mapping) and (held.get("bytes") or held.get("path")):  # an Image column that is not decoded
            return pictures.opened(io.BytesIO(held["bytes"]) if held.get("bytes") else held["path"], source), source
        if isinstance(held, Image.Image):
            return held.copy(), source
        raise UserError(f"{source} holds {_kind(held)} in {image}, not an image")

    @lru_cache(maxsize=1)
    def as_grey() -> bool:
        return pictures.grey(open_picture, count, preparation)

    def decode(rows: Sequence[int]) -> Split:
        first = item(rows[0])
        as_pictures = isinstance(first, Image.Image | Mapping)
        if as_pictures:
            x: Array = pictures.decoded(open_picture, rows, as_grey=as_grey(), preparation=preparation, name=name)
        elif preparation.resize or preparation.crop:
            raise UserError(f"{preparation.given()} is for PIL images, and these are {_kind(first)}; prepare them")
        else:
            x = _array([_array(item(row), "x") for row in rows], "x")
        y = _array([labels[row] for row in rows], "y")
        if outputs and y.dtype.kind in "iu" and y.min() >= 0 and y.max() < len(outputs):
            y = np.array(outputs)[y]
        elif outputs:
            raise UserError(f"{name} holds labels outside its {len(outputs)} classes in {label}; remove these rows")
        classes = mapped.classes if mapped else len(names) or None
        split = split_of_arrays(
            name, x, y, name, classes=classes, channels_last=as_pictures, x_name=image, y_name=label
        )
        return replace(split, numbers=tuple(rows), class_names=dict(zip(names, outputs, strict=True)))

    return Undecoded(name, count, decode)


def _column(columns: Sequence[str], known: Sequence[str], what: str, kind: str) -> str:
    for name in known:
        if name in columns:
            return name
    raise UserError(
        f"data={kind} has the columns {', '.join(columns)}, and none for {what}; rename it with"
        f" rename_column(..., {known[0]!r})"
    )


def _name(data: Any) -> str:
    """The name of the data: builder and part if it knows them, such as `cifar10:test`."""
    builder = getattr(getattr(data, "info", None), "builder_name", None) or "dataset"
    part = str(getattr(data, "split", None) or "").partition("[")[0]
    return f"{builder}:{part}" if part in ("train", "test") else str(builder)
