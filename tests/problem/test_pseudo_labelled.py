"""The pseudo-labelled images of RST, from made-up pickles; a hostile one must run nothing."""

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from robench.problem import datasets
from robench.problem.datasets.batch_pickle import read_pseudo_labelled
from robench.problem.datasets.pseudo_labelled import RST_500K

from .originals import message_of, noise, places, write

FILE = "ti_500K_pseudo_labeled.pickle"
IMAGES = noise(5, 32, 32, 3)
LABELS = [9, 0, 3, 3, 7]


def pickled(labels=None, *, protocol: int = 3, old_numpy: bool = True, **other) -> bytes:
    """A file as RST's authors wrote it, with Python 3 and the numpy of 2019, whose module had another name."""
    held = {"data": IMAGES, "extrapolated_targets": np.array(LABELS) if labels is None else labels, **other}
    data = pickle.dumps(held, protocol=protocol)
    return data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n") if old_numpy else data


def read(data: bytes):
    return read_pseudo_labelled(io.BytesIO(data), FILE)


@pytest.mark.parametrize(("protocol", "old_numpy"), [(3, True), (3, False), (4, False)])
@pytest.mark.parametrize(
    "labels", [None, LABELS, np.array(LABELS, ">i8"), np.array(LABELS, "<i4"), np.array(LABELS, np.uint8)]
)
def test_images_and_labels_are_those_in_the_pickle(labels, protocol, old_numpy):
    images = read(pickled(labels, protocol=protocol, old_numpy=old_numpy))
    assert np.array_equal(images.pixels, IMAGES)
    assert images.labels.tolist() == LABELS


def test_further_entries_are_ignored():
    assert read(pickled(prediction_model="checkpoint.pt", truth=[1, 2])).labels.tolist() == LABELS


@pytest.mark.parametrize("folder", ["", "rst-500k"])
def test_the_images_are_training_images_that_stay_bytes_until_they_are_taken(tmp_path, caplog, folder):
    write(tmp_path / folder, **{FILE: pickled()})
    source = RST_500K.read("train", places(tmp_path))
    assert RST_500K.here("train", places(tmp_path))
    assert (source.name, len(source), list(source.labels)) == ("rst-500k:train", 5, LABELS)
    split = source.take([4, 0])
    assert (split.numbers, split.y.tolist(), split.classes) == ((4, 0), [7, 9], 10)
    assert np.array_equal(split.x.numpy().transpose(0, 2, 3, 1), (IMAGES[[4, 0]] / 255).astype(np.float32))
    assert "holds 5 pseudo-labelled images; no checksum is published for it" in caplog.text


def test_the_file_is_never_downloaded_and_its_page_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("ROBENCH_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    message = message_of(lambda: datasets.load("rst-500k:train"))
    assert f"robench does not download it: get {FILE} from https://github.com/yaircarmon/semisup-adv" in message
    assert "no part of rst-500k is called 'test'" in message_of(lambda: datasets.load("rst-500k"))


class Command:
    """What an attacker pickles: loading it runs a command."""

    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


def hostile(path: Path) -> list[bytes]:
    touch = Command(os.system, f"touch {path}")
    return [
        pickle.dumps(touch),
        pickled(other=touch),
        pickled(labels=touch),
        pickled(labels=np.array([touch], dtype=object), protocol=4),
        pickled(other=Command(np.fromfile, __file__)),
        pickled(other=Command(getattr, np.ndarray, "dump"), protocol=4),
        b"cnumpy._core.multiarray\nfromfile\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.dump\x93.",
        b"\x80\x02\x82\x01.",  # an extension code
    ]


@pytest.mark.parametrize("case", range(8))
def test_a_pickle_that_names_a_callable_is_refused_before_any_call(tmp_path, case):
    path = tmp_path / "was-run"
    message = message_of(lambda: read(hostile(path)[case]))
    assert message.startswith(f"{FILE} would run ")
    assert not path.exists()


def test_an_extension_code_that_nobody_registered_is_damage():
    assert message_of(lambda: read(hostile(Path("unused"))[8])).startswith(f"{FILE} is damaged (")


@pytest.mark.parametrize("case", range(4))
def test_the_hostile_pickles_would_have_run(tmp_path, case):
    path = tmp_path / "was-run"
    pickle.loads(hostile(path)[case])
    assert path.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a pickle",
        pickled()[:-200],
        pickle.dumps([1, 2]),
        pickle.dumps({"data": [1, 2]}),
        pickle.dumps({"extrapolated_targets": LABELS}),
        pickled(LABELS[:4]),
        pickled([*LABELS[:4], 10]),
        pickled([*LABELS[:4], -1]),
        pickled([*LABELS[:4], 1.0]),
        pickled([*LABELS[:4], True]),
        pickled(np.array(LABELS, dtype=float)),
        pickled(np.array(LABELS)[:, None]),
        pickled(data=IMAGES / 255),
        pickled(data=IMAGES[:, :, :16]),
        pickled(data=np.asfortranarray(IMAGES)),
        pickled(data=IMAGES.reshape(5, -1)),
        pickled().replace(b"K\x05K K K\x03", b"K\x06K K K\x03"),  # six images, the bytes of five
        b"\x80\x03\x8e" + (2**60).to_bytes(8, "little"),  # a string longer than any memory
        b"\x80\x03" + b"(" * 10 + b"l" * 3,
    ],
)
def test_other_contents_are_damaged(data):
    assert message_of(lambda: read(data)).startswith(f"{FILE} is damaged (")
