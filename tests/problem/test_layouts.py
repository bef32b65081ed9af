"""Every way in which weights are commonly kept gives back the same network, with a note on where they lay."""

import collections
import io
import json
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.torch
import scipy.io
import torch
from torch import nn

from robench.problem.checkpoints import load

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "checkpoints.md"
SHAPE = (1, 8, 8)
CODE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=1000):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4 * 6 * 6, num_classes)

    def forward(self, x):
        return self.fc(self.bn(self.conv(x)).relu().flatten(1))
"""
Weights = dict[str, Any]


def made(seed: int) -> Any:
    """A network as after training: batch norm's statistics and counters differ from fresh ones."""
    names: dict[str, Any] = {}
    exec(CODE, names)
    torch.manual_seed(seed)
    network = names["Net"](5).eval()
    network.bn.running_mean.normal_()
    network.bn.running_var.uniform_(0.5, 2)
    network.bn.num_batches_tracked += 7
    return network


def at(prefix: str, weights: Weights) -> Weights:
    return {prefix + key: value for key, value in weights.items()}


def split(weights: Weights) -> tuple[Weights, Weights]:
    """The layers before the last one, and the last one."""
    head = {key: value for key, value in weights.items() if key.startswith("fc.")}
    return {key: value for key, value in weights.items() if key not in head}, head


def adam(network: nn.Module) -> Weights:
    """The state of an optimiser that has made a step."""
    optimiser = torch.optim.Adam(network.parameters())
    network(torch.rand(2, *SHAPE)).sum().backward()
    optimiser.step()
    network.zero_grad()
    return optimiser.state_dict()


def pair(mean: str, std: str, *shape: int, m: float = 0.25, s: float = 0.5) -> Weights:
    return {mean: torch.full(shape, m), std: torch.full(shape, s)}


class Layout(NamedTuple):
    """A row of docs/reference/checkpoints.md: name, keys, note; and how it is written."""

    name: str
    keys: str
    note: str
    held: Callable[[Weights, Weights], object]  # of the network's weights and of others
    normalised: bool = False
    write: Callable[[object, Path], Path] | None = None
    weights: str | None = None


def legacy(held: object, folder: Path) -> Path:
    torch.save(held, folder / "m.pth", _use_new_zipfile_serialization=False)
    return folder / "m.pth"


def npz(held: Any, folder: Path) -> Path:
    np.savez_compressed(folder / "m.npz", **held)
    return folder / "m.npz"


def mat(held: Any, folder: Path) -> Path:
    scipy.io.savemat(folder / "m.mat", held, do_compression=True)
    return folder / "m.mat"


def pickled(held: object, folder: Path) -> Path:
    (folder / "m.pkl").write_bytes(pickle.dumps(held))
    return folder / "m.pkl"


def stored(held: Any, folder: Path) -> Path:
    safetensors.torch.save_file(held, folder / "m.safetensors")
    return folder / "m.safetensors"


def sharded(held: Any, folder: Path) -> Path:
    parts = dict(zip(("m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"), split(held), strict=True))
    for name, part in parts.items():
        safetensors.torch.save_file(part, folder / name)
    where = {key: name for name, part in parts.items() for key in part}
    index = folder / "m.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return index


def first_tar(held: Any, folder: Path) -> Path:
    """As PyTorch before 0.1.10 wrote it, byte by byte: its names are no modules any more."""

    def named(number: int, second: object, kind: str) -> bytes:
        return (
            b"\x80\x02(" + b"".join(pickle.dumps(n, 2)[2:-1] for n in (number, second)) + f"ctorch\n{kind}\nt.".encode()
        )

    storages, tensors = pickle.dumps(len(held), 2), pickle.dumps(len(held), 2)
    for number, tensor in enumerate(held.values()):
        kind = "Long" if tensor.dtype == torch.int64 else "Float"
        storages += named(number, "cpu", f"{kind}Storage")
        storages += struct.pack("<q", tensor.numel()) + tensor.contiguous().numpy().tobytes()
        tensors += named(1000 + number, number, f"{kind}Tensor") + struct.pack("<ii", tensor.ndim, 0)
        tensors += struct.pack(f"<{2 * tensor.ndim + 1}q", *tensor.shape, *tensor.contiguous().stride(), 0)
    storages += pickle.dumps([], 2)

    class Outside(pickle.Pickler):
        def persistent_id(self, obj):
            return str(obj[0]) if isinstance(obj, tuple) and obj else None

    pickles = io.BytesIO()
    keys = collections.OrderedDict((key, (1000 + number,)) for number, key in enumerate(held))
    Outside(pickles, 2).dump(keys)
    with tarfile.open(folder / "m.tar", "w") as archive:
        for name, content in (("pickle", pickles.getvalue()), ("storages", storages), ("tensors", tensors)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return folder / "m.tar"


def numpy(weights: Weights) -> Weights:
    return {key: value.numpy() for key, value in weights.items()}


def cast(weights: Weights, kind: torch.dtype) -> Weights:
    return {key: value.to(kind) if value.is_floating_point() else value for key, value in weights.items()}


LAYOUTS = [
    # Prefixes
    Layout("a state dict", "`conv.weight`", "", lambda w, o: w),
    Layout("DataParallel", "`module.conv.weight`", "weights read with the prefix module.",
           lambda w, o: at("module.", w)),
    Layout("torch.compile around it", "`_orig_mod.module.conv.weight`",
           "weights read with the prefix _orig_mod.module.", lambda w, o: at("_orig_mod.module.", w)),
    Layout("DataParallel inside", "`conv.module.weight`",
           "weights read without the names of inner wrappers in the keys",
           lambda w, o: {key.replace("conv.", "conv.module."): value for key, value in w.items()}),
    Layout("torch.optim.swa_utils", "`n_averaged`, `module.conv.weight`", "weights read with the prefix module.",
           lambda w, o: {"n_averaged": torch.tensor(9), **at("module.", w)}),
    Layout("MoCo", "`state_dict`: `module.encoder_q.conv.weight`, `module.encoder_k.conv.weight`",
           "2 sets of weights fit and differ (state_dict.module.encoder_q, state_dict.module.encoder_k): "
           "state_dict.module.encoder_q is used (not an average or other copy by its name); "
           "--weights state_dict.module.encoder_k selects the other",
           lambda w, o: {"state_dict": {**at("module.encoder_k.", o), **at("module.encoder_q.", w)}}),
    Layout("student and teacher", "`student.conv.weight`, `teacher.conv.weight`",
           "2 sets of weights fit and differ (student, teacher): student is used (not an average or other copy by "
           "its name); --weights teacher selects the other",
           lambda w, o: {**at("teacher.", o), **at("student.", w)}),
    # Wrappings
    Layout("Lightning", "`state_dict`: `model.net.conv.weight`, `criterion.weight`; `hyper_parameters`, `callbacks`",
           "weights read from state_dict, with the prefix model.net. · not used: criterion.weight (5)",
           lambda w, o: {"state_dict": {**at("model.net.", w), "criterion.weight": torch.ones(5)}, "epoch": 3,
                         "hyper_parameters": {"lr": np.float64(0.1), "sizes": [1, 2], "name": None},
                         "pytorch-lightning_version": "2.4.0", "callbacks": {"best": {"score": torch.tensor(0.5)}}}),
    Layout("timm", "`state_dict`, `state_dict_ema`, `optimizer`, `arch`",
           "2 sets of weights fit and differ (state_dict, state_dict_ema): state_dict is used (not an average or "
           "other copy by its name); --weights state_dict_ema selects the other",
           lambda w, o: {"state_dict": w, "state_dict_ema": o, "optimizer": adam(made(1)), "arch": "net", "epoch": 3}),
    Layout("timm, `--weights state_dict_ema`", "the same",
           "weights read from state_dict_ema · not used: state_dict (8 tensors)",
           lambda w, o: {"state_dict": o, "state_dict_ema": w, "epoch": 3}, weights="state_dict_ema"),
    Layout("MadryLab's robustness",
           "`model`: `module.normalizer.new_mean`, `module.model.conv.weight`, `module.attacker.model.conv.weight`",
           "weights read from model, with the prefix module.model. · "
           "not used: model.module.attacker.model (equal weights); module.attacker.normalize.new_mean (1x1x1), "
           "module.attacker.normalize.new_std (1x1x1) · "
           "normalisation 0.25/0.5, from model.module.normalizer.new_mean and model.module.normalizer.new_std "
           "in the file",
           lambda w, o: {"model": {**pair("module.normalizer.new_mean", "module.normalizer.new_std", 1, 1, 1),
                                   **at("module.model.", w),
                                   **at("module.attacker.normalize.", pair("new_mean", "new_std", 1, 1, 1)),
                                   **at("module.attacker.model.", w)}, "epoch": 150, "schedule": None},
           normalised=True),
    Layout("fastai", "`model`, `opt`", "weights read from model", lambda w, o: {"model": w, "opt": adam(made(1))}),
    Layout("mmpretrain", "`state_dict`: `backbone.conv.weight`, `head.fc.weight`; `meta`",
           "weights read in parts, from state_dict.backbone and state_dict.head",
           lambda w, o: {"meta": {"epoch": 3}, "state_dict": at("backbone.", split(w)[0]) | at("head.", split(w)[1])}),
    Layout("an average beside them", "`net`, `ema`",
           "2 sets of weights fit and differ (net, ema): net is used (not an average or other copy by its name); "
           "--weights ema selects the other", lambda w, o: {"ema": o, "net": w}),
    Layout("several in a dictionary", "`last`, `best_acc`",
           "2 sets of weights fit and differ (last, best_acc): last is used (the shortest name); "
           "--weights best_acc selects the other", lambda w, o: {"best_acc": o, "last": w}),
    Layout("any other key", "`net_state_dict`", "weights read from net_state_dict",
           lambda w, o: {"net_state_dict": w, "epoch": 3}),
    Layout("wrappings in wrappings", "`checkpoint`: `models`: `classifier`: `module.conv.weight`",
           "weights read from checkpoint.models.classifier, with the prefix module.",
           lambda w, o: {"checkpoint": {"models": {"classifier": at("module.", w)}}, "args": {"lr": 0.1}}),
    Layout("stages in a list", "`[{'conv.weight': ...}, {'fc.weight': ...}]`", "weights read in parts, from 0 and 1",
           lambda w, o: list(split(w))),
    Layout("epochs in a list", "`[{'conv.weight': ...}, {'conv.weight': ...}]`",
           "2 sets of weights fit and differ (1, 0): 1 is used (the last of a list); --weights 0 selects the other",
           lambda w, o: [o, w]),
    Layout("a tuple", "`(net.state_dict(), optimiser.state_dict())`", "weights read from 0",
           lambda w, o: (w, adam(made(1)))),
    # Normalisation
    Layout("RobustBench", "`mu`, `sigma`, `conv.weight`", "normalisation 0.25/0.5, from mu and sigma in the file",
           lambda w, o: {**pair("mu", "sigma", 1, 1, 1, 1), **w}, normalised=True),
    Layout("a normalising module", "`normalize.mean`, `normalize.std`, `model.conv.weight`",
           "weights read with the prefix model. · "
           "normalisation 0.25/0.5, from normalize.mean and normalize.std in the file",
           lambda w, o: {**pair("normalize.mean", "normalize.std", 1), **at("model.", w)}, normalised=True),
    Layout("a normalising layer", "`0.mean`, `0.std`, `1.conv.weight`",
           "weights read with the prefix 1. · normalisation 0.25/0.5, from 0.mean and 0.std in the file",
           lambda w, o: {**pair("0.mean", "0.std", 1, 1, 1), **at("1.", w)}, normalised=True),
    Layout("for pixels up to 255", "`_mean`, `_std`, `conv.weight`",
           "normalisation 0.25/0.5, from _mean and _std in the file, divided by 255 for pixels from 0 to 1",
           lambda w, o: {**pair("_mean", "_std", 1, m=63.75, s=127.5), **w}, normalised=True),
    # Files
    Layout("before PyTorch 1.6", "a `.pth` that is no zip file", "", lambda w, o: w, write=legacy),
    Layout("before PyTorch 0.1.10", "a tar file", "", lambda w, o: w, write=first_tar),
    Layout("safetensors", "`.safetensors`", "", lambda w, o: w, write=stored),
    Layout("safetensors in parts", "`.safetensors.index.json` beside its parts", "", lambda w, o: w, write=sharded),
    Layout("arrays by torch.save", "NumPy arrays in place of tensors", "", lambda w, o: {**numpy(w)}),
    Layout("arrays by pickle.dump", "`.pkl`", "", lambda w, o: numpy(w), write=pickled),
    Layout("tensors by pickle.dump", "`.pkl`", "", lambda w, o: w, write=pickled),
    Layout("arrays by numpy.savez", "`.npz`", "", lambda w, o: numpy(w), write=npz),
    Layout("keys like paths", "`conv/weight` in an `.npz`", "weights read with / for the dots of the keys",
           lambda w, o: {key.replace(".", "/"): value for key, value in numpy(w).items()}, write=npz),
    Layout("MATLAB", "`conv_weight` in a `.mat` of version 5", "weights read with _ for the dots of the keys",
           lambda w, o: {key.replace(".", "_"): value for key, value in numpy(w).items()}, write=mat),
    Layout("half precision", "float16", "the weights were float16 and are read as float32",
           lambda w, o: cast(w, torch.float16)),
    Layout("eight bits", "float8_e4m3fn without scales", "the weights were float8_e4m3fn and are read as float32",
           lambda w, o: cast(w, torch.float8_e4m3fn)),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(CODE)
    return tmp_path


def expected(layout: Layout, network: Any) -> Any:
    """The network that the file holds: rounded where the file is."""
    weights = network.state_dict()
    held = layout.held(weights, weights)
    if isinstance(held, dict) and held.keys() == weights.keys() and isinstance(held["fc.bias"], torch.Tensor):
        network.load_state_dict({key: value.float() for key, value in held.items()})
    return network


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_the_weights_in_it_are_the_networks_and_a_note_names_their_place(folder, layout):
    network, other = made(0), made(1)
    held = layout.held(network.state_dict(), other.state_dict())
    if layout.write is not None:
        path = layout.write(held, folder)
    else:
        path = folder / "m.pt"
        torch.save(held, path)
    loaded = load(path, arch="net.py:Net", shape=SHAPE, classes=5, weights=layout.weights)
    x = torch.rand(4, *SHAPE)
    judge = expected(layout, network)
    with torch.no_grad():
        assert torch.equal(loaded.classifier(x), judge((x - 0.25) / 0.5 if layout.normalised else x))
    assert loaded.classifier.normalisation == ("0.25/0.5" if layout.normalised else "none")
    counters = loaded.classifier.module.state_dict()["bn.num_batches_tracked"]
    assert counters == 7
    notes = [note for note in loaded.notes if not note.startswith("no normalisation is known")]
    assert " · ".join(notes).startswith(layout.note)
    assert bool(notes) == bool(layout.note)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_the_page_has_a_row_for_it(layout):
    row = f"| {layout.name} | {layout.keys} | {layout.note.replace(' · ', '<br>') or '—'} |"
    assert row in PAGE.read_text().splitlines()


def test_the_page_has_no_other_rows():
    table = PAGE.read_text().partition("<!-- layouts -->")[2].partition("<!-- end of layouts -->")[0]
    assert len(table.strip().splitlines()) == len(LAYOUTS) + 2


def test_torch_reads_the_oldest_layout_as_these_tests_write_it(folder):
    weights = made(0).state_dict()
    held = torch.load(first_tar(weights, folder), weights_only=False)
    assert held.keys() == weights.keys()
    assert all(torch.equal(held[key], weights[key]) for key in weights)
