"""Files that are too large, hold no plain numbers, or are something else: one sentence each, and nothing is run."""

import argparse
import collections
import enum
import io
import json
import os
import pickle
import struct
import sys
import tarfile
import warnings
import zipfile
import zlib

import numpy as np
import pytest
import safetensors.torch
import scipy.io
import torch
from torch import nn

from robench.errors import UserError
from robench.problem.checkpoints import load, zips
from robench.problem.checkpoints.arrays import read_mat, read_npz
from robench.problem.checkpoints.nested import nested

from .test_layouts import CODE, SHAPE, first_tar, made, sharded


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(CODE)
    return tmp_path


def refusal(path="m.pt", held=None, **settings):
    """The one sentence that loading ends with."""
    if held is not None:
        torch.save(held, path)
    with pytest.raises(UserError) as error:
        load(path, **{"arch": "net.py:Net", "shape": SHAPE, "classes": 5} | settings)
    sentence = str(error.value)
    assert "\n" not in sentence
    assert sentence.isprintable()
    return sentence


# Tensors that are no plain numbers


def quantised(weight):
    return torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)


SPECIAL = {
    "sparse": (lambda w: w.to_sparse(), "fc.weight is stored as sparse coo; save it as to_dense()"),
    "sparse rows": (lambda w: w.to_sparse_csr(), "fc.weight is stored as sparse csr"),
    "meta": (lambda w: w.to("meta"), "fc.weight is on the meta device: it has a shape and no values"),
    "complex": (lambda w: w.to(torch.complex64), "fc.weight is complex"),
    "nested": (lambda w: torch.nested.nested_tensor([w[0], w[1]]), "fc.weight is a nested tensor"),
    "quantised": (quantised, "is quantised (fc.weight), and has no gradients"),
    "eight bits": (lambda w: w.to(torch.int8), "whole numbers (int8) in fc.weight, as quantised weights have"),
    "flags": (lambda w: w > 0, "whole numbers (bool) in fc.weight"),
    "complex array": (lambda w: w.numpy().astype(np.complex64), "fc.weight is complex"),
    "huge": (lambda w: torch.zeros(1).expand(5, 10**12), "fc.weight is 5x1000000000000 numbers, repeated from fewer"),
    "infinite": (lambda w: w / 0, "NaN or infinite weights in fc.weight"),
    "another shape": (lambda w: w.T, "fc.weight is 144x5 where 5x144 is wanted"),
}


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("kind", SPECIAL)
def test_a_weight_that_is_no_plain_number_is_named_with_the_reason(folder, kind):
    change, message = SPECIAL[kind]
    weights = made(0).state_dict()
    assert message in refusal(held=weights | {"fc.weight": change(weights["fc.weight"])})


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested")
@pytest.mark.parametrize("kind", ["sparse", "meta", "complex", "nested", "huge"])
def test_the_reason_is_the_same_where_no_architecture_is_named(folder, kind):
    change, message = SPECIAL[kind]
    weights = made(0).state_dict()
    assert message in refusal(held=weights | {"fc.weight": change(weights["fc.weight"])}, arch=None)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested")
def test_what_the_network_does_not_need_may_be_anything(folder):
    network = made(0)
    odd = {"sparse": torch.eye(3).to_sparse(), "meta": torch.empty(3, device="meta"), "words": np.array(["a"])}
    torch.save({"net": network.state_dict(), "odd": odd}, "m.pt")
    x = torch.rand(2, *SHAPE)
    assert torch.equal(load("m.pt", arch="net.py:Net", shape=SHAPE, classes=5).classifier(x), network(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_state_dict_of_a_quantised_network_is_named_as_such(folder):
    network = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 3)), {nn.Linear}, dtype=torch.qint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer = refusal(held=network.state_dict())
    assert "is quantised" in answer
    others = {"layer.qweight": torch.ones(3, dtype=torch.int32), "layer.qzeros": torch.ones(3, dtype=torch.int32)}
    assert "is quantised (layer.qweight)" in refusal(held=others, arch=None)


@pytest.mark.parametrize("scale", ["fc.weight_scale", "fc.scale", "fc.weight.scales", "fc.dequant_scale"])
def test_eight_bits_with_scales_are_quantised(folder, scale):
    weights = made(0).state_dict()
    weights["fc.weight"] = weights["fc.weight"].to(torch.float8_e4m3fn)
    assert load_ok(weights)
    answer = refusal(held=weights | {scale: torch.ones(1)})
    assert f"its float8_e4m3fn weights go with scales ({scale})" in answer


def load_ok(weights):
    torch.save(weights, "m.pt")
    return load("m.pt", arch="net.py:Net", shape=SHAPE, classes=5)


# Containers


def test_a_container_in_itself_is_no_endless_search(folder):
    loop = {}
    loop["state_dict"] = loop
    assert refusal(held=loop) == "m.pt holds no tensors: its state_dict is the file's own container again"
    loop["net"] = made(0).state_dict()
    assert load_ok(loop)


def test_containers_without_end_are_refused_in_time(folder, monkeypatch):
    many = [made(0).state_dict()]
    for _ in range(60):
        many = [many, many]  # 2 ** 60 paths in a few bytes
    assert "containers more than 50 deep" in refusal(held=many)
    monkeypatch.setattr("robench.problem.checkpoints.nested.ENTRIES", 1000)
    assert "more than 1,000 entries" in refusal(held=[[0] * 100] * 100)


def test_two_tensors_of_one_name_are_refused():
    with pytest.raises(UserError, match=r"two tensors called a\.b"):
        nested({"a": {"b": torch.ones(1)}, "a.b": torch.ones(1)})


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}, "is the state of an optimiser"),
        ({"state": {}, "param_groups": [{"lr": 0.1}]}, "is the state of an optimiser"),
        ({"epoch": 3, "lr": 0.1}, "holds no tensors; it holds epoch, lr; name the file with the weights"),
        (3, "holds int, not weights by name"),
        ("text", "holds str, not weights by name"),
    ],
)
def test_what_is_no_model_is_called_what_it_is(folder, held, message):
    assert message in refusal(held=held)
    assert message in refusal(held=held, arch=None)


# Sizes, known before anything is unpacked


def bomb(path, name, size):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", b"")
        archive.writestr(name, bytes(size))


@pytest.mark.parametrize("name", ["archive/data/0", "weights.npy"])
def test_a_zip_file_that_grows_out_of_proportion_is_not_unpacked(folder, monkeypatch, name):
    monkeypatch.setattr(zips, "UNPACKED", 2**20)
    bomb("m.pt", name, 2**20 + 1)
    opened = []
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_, **__: opened.append(1))
    monkeypatch.setattr(torch, "load", lambda *_, **__: opened.append(1))
    assert "would unpack to 1 MB, as no weights do; it was not unpacked" in refusal()
    assert not opened


def test_a_matlab_file_that_grows_out_of_proportion_is_left(folder, monkeypatch):
    monkeypatch.setattr(zips, "UNPACKED", 2**20)
    scipy.io.savemat("m.mat", {"a": np.ones(3)})
    header = (folder / "m.mat").read_bytes()[:128]
    packed = zlib.compress(bytes(2**20 + 8))
    (folder / "m.mat").write_bytes(header + struct.pack("<II", 15, len(packed)) + packed)
    assert "would unpack to more than 1 MB" in refusal("m.mat")


def npy(shape, kind="<f4", data=b""):
    header = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy((10**12,)), "is damaged (it is too short for 1000000000000)"),
        (npy((2,), data=bytes(12)), "is damaged (its length is not that of 2)"),
        (npy((1,), "|O", b"\x80\x04."), "holds Python objects, which are never unpickled"),
        (npy((-1,), data=bytes(4)), "is damaged"),
        (b"\x93NUMPY\x09\x00", "is damaged"),
        (b"no array", "is damaged"),
    ],
)
def test_an_array_that_is_not_what_it_claims_is_refused(folder, content, message):
    with zipfile.ZipFile("m.npz", "w") as archive:
        archive.writestr("fc.weight.npy", content)
    assert message in refusal("m.npz")


def test_a_zip_file_with_a_password_is_named_as_such(folder):
    with zipfile.ZipFile("m.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    data = bytearray((folder / "m.pt").read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (folder / "m.pt").write_bytes(data)
    assert "is a zip file with a password" in refusal()


# Arrays, against the libraries that write them


@pytest.mark.parametrize("compressed", [True, False])
def test_matlab_files_are_read_as_scipy_reads_them(folder, compressed, monkeypatch):
    rng = np.random.default_rng(0)
    arrays = {f"a{axes}": rng.normal(size=(2, 3, 4, 5)[:axes]) for axes in (1, 2, 3, 4)}
    arrays |= {
        kind: np.arange(6).astype(kind).reshape(2, 3) for kind in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")
    }
    arrays |= {"f4": np.float32(rng.normal(size=(3, 1, 2))), "scalar": np.float64(3), "flags": np.eye(3) > 0}
    others = {"text": "words", "cell": np.array([1, "a"], dtype=object), "struct": {"x": 1}, "c": np.ones(2) * 1j}
    scipy.io.savemat("m.mat", arrays | others, do_compression=compressed)
    expected = scipy.io.loadmat("m.mat")
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, None)  # nothing here unpickles
    found, rest = read_mat(folder / "m.mat")
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in arrays)
    assert {found[name].dtype == expected[name].dtype for name in arrays} == {True}
    assert rest == {"text": "text", "cell": "a cell", "struct": "a struct", "c": "complex"}


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_matlab_file_that_is_cut_off_is_called_damaged(folder, share):
    scipy.io.savemat("m.mat", {"a": np.random.default_rng(0).normal(size=(30, 30))}, do_compression=True)
    data = (folder / "m.mat").read_bytes()
    (folder / "m.mat").write_bytes(data[: int(share * len(data))])
    assert "cut off or damaged" in refusal("m.mat")


def test_random_bytes_in_a_matlab_file_end_in_one_sentence(folder):
    scipy.io.savemat("m.mat", {"conv_weight": np.ones((4, 1, 3, 3)), "b": {"x": 1}})
    data, rng = (folder / "m.mat").read_bytes(), np.random.default_rng(0)
    for _ in range(80):
        changed = bytearray(data)
        for place in rng.integers(128, len(data), 4):
            changed[place] = rng.integers(256)
        (folder / "m.mat").write_bytes(changed)
        refusal("m.mat")


def test_arrays_with_columns_first_and_other_byte_orders_are_read(folder):
    value = np.arange(6, dtype=">f4").reshape(2, 3)
    np.savez("m.npz", a=np.asfortranarray(value), b=value)
    arrays = read_npz(folder / "m.npz", zips.entries(folder / "m.npz"))
    tensors = nested(arrays).tensors
    assert torch.equal(tensors["a"], torch.arange(6.0).view(2, 3))
    assert torch.equal(tensors["b"], tensors["a"])


# Parts with an index


@pytest.mark.parametrize(
    "name", ["../m.safetensors", "/m.safetensors", "a/m.safetensors", "..", "", "a\\m.safetensors"]
)
def test_an_index_names_files_of_its_own_folder_only(folder, name):
    inner = folder / "inner"
    inner.mkdir()
    safetensors.torch.save_file(made(0).state_dict(), folder / "m.safetensors")
    where = dict.fromkeys(made(0).state_dict(), name)
    (inner / "m.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    assert "the parts must lie in its own folder" in refusal("inner/m.safetensors.index.json")


def test_an_index_whose_parts_are_elsewhere_or_hold_less_is_refused(folder):
    index = sharded(made(0).state_dict(), folder)
    first, second = sorted(folder.glob("*.safetensors"))
    assert "is one of several parts; name" in refusal(first)
    assert "m.safetensors.index.json" in refusal(folder)
    safetensors.torch.save_file({"fc.bias": torch.ones(5)}, second)
    assert "lists fc.weight in m-00002-of-00002.safetensors, which does not hold it" in refusal(index)
    second.unlink()
    assert "lists m-00002-of-00002.safetensors, not in its folder" in refusal(index)
    first.unlink()
    assert "and 1 more part, not in its folder" in refusal(index)
    for text in ("[" * 100_000, "{}", '{"weight_map": [1]}', "\xff"):
        index.write_text(text, encoding="latin-1")
        assert "is no index of weights" in refusal(index)


# Pickles


class Colour(enum.Enum):
    RED = 1


class Mkdir:
    """Unpickling it makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("hacked",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("held", "named"),
    [
        (Mkdir(), "posix.mkdir"),
        (argparse.Namespace(lr=1), "argparse.Namespace"),
        (Colour.RED, "Colour"),
        (collections.Counter("ab"), "collections.Counter"),
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (np.array([Mkdir()], dtype=object), "posix.mkdir"),
    ],
)
def test_a_pickle_by_hand_runs_nothing_but_what_makes_arrays_and_tensors(folder, held, named, protocol):
    (folder / "m.pkl").write_bytes(pickle.dumps({"net": made(0).state_dict(), "more": held}, protocol))
    answer = refusal("m.pkl")
    assert "is a pickle that would run code to be read" in answer
    assert named in answer
    assert not (folder / "hacked").exists()


def global_name(module, name):
    return f"c{module}\n{name}\n".encode()


@pytest.mark.parametrize(
    ("program", "named"),
    [
        # The state of a function of the table: its defaults would change what it does.
        (global_name("torch._utils", "_rebuild_tensor_v2") + b"(N}X\x0c\x00\x00\x00__defaults__)stb.", "the state of"),
        (global_name("collections", "OrderedDict") + b"(N}X\x06\x00\x00\x00get_asNstb.", "the state of type"),
        (
            global_name("_codecs", "encode") + b"(X\x01\x00\x00\x00aX\x03\x00\x00\x00zipt\x52.",
            "_codecs.encode to 'zip'",
        ),
        (b"Pid\n.", "the outside object 'id'"),
        (global_name("builtins", "bytearray") + b"(J\x00\x00\x00\x7ft\x52.", "builtins.bytearray"),
    ],
)
def test_a_pickle_by_hand_changes_no_function_and_makes_no_room(folder, program, named):
    before = torch._utils._rebuild_tensor_v2.__defaults__
    (folder / "m.pkl").write_bytes(b"\x80\x02" + program)
    assert named in refusal("m.pkl")
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before


@pytest.mark.parametrize("by_torch", [True, False])
def test_an_array_is_as_large_as_its_numbers_and_not_as_it_claims(folder, by_torch):
    made_room = global_name("numpy.core.multiarray", "_reconstruct") + global_name("numpy", "ndarray")
    program = b"\x80\x02" + made_room + b"(\x8a\x06\x00\x00\x00\x00\x00\x10tX\x01\x00\x00\x00b\x87R."
    if by_torch:
        with zipfile.ZipFile("m.pt", "w") as archive:
            archive.writestr("m/data.pkl", program)
            archive.writestr("m/version", b"3\n")
            archive.writestr("m/byteorder", b"little")
    else:
        (folder / "m.pt").write_bytes(program)
    assert "holds one array, not weights by name" in refusal()


def test_another_pickle_protocol_is_named_and_read_when_it_is_trusted(folder):
    torch.save(made(0).state_dict(), "m.pt", pickle_protocol=4)
    assert "save it again without pickle_protocol=" in refusal()
    assert load("m.pt", arch="net.py:Net", shape=SHAPE, classes=5, trust_pickle=True)


def test_the_oldest_files_run_nothing_either(folder):
    path = first_tar(made(0).state_dict(), folder)
    with tarfile.open(path) as archive:
        content = {member.name: archive.extractfile(member).read() for member in archive.getmembers()}
    content["pickle"] = pickle.dumps(Mkdir(), 2)
    with tarfile.open(path, "w") as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    assert "would run code to be read (posix.mkdir)" in refusal(path)
    assert not (folder / "hacked").exists()
    path.write_bytes(path.read_bytes()[:5000])
    assert "cut off or damaged" in refusal(path)


def test_an_archive_of_a_checkpoint_names_what_is_in_it(folder):
    torch.save(made(0).state_dict(), "net.pt")
    with tarfile.open("m.tar", "w") as archive:
        archive.add("net.pt")
    assert "is a tar archive; unpack it and name the checkpoint in it, like net.pt" in refusal("m.tar")
    with zipfile.ZipFile("m.zip", "w") as archive:
        archive.write("net.pt")
    assert "is a zip file of something else, not a checkpoint; name the file with the weights, like net.pt" in refusal(
        "m.zip"
    )


@pytest.mark.parametrize(
    ("beginning", "message"),
    [
        (b"\x89HDF\r\n\x1a\n", "is HDF5, of Keras or MATLAB 7.3"),
        (b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM", "is of MATLAB's version 7.3, which is HDF5"),
        (b"GGUF", "whose weights are quantised"),
        (b"\x93NUMPY\x01\x00", "holds one array without names"),
        (b"\x1f\x8b\x08", "is compressed with gzip; unpack it"),
        (b"7z\xbc\xaf\x27\x1c", "is a 7z archive"),
    ],
)
def test_files_of_other_tools_are_known_by_their_first_bytes(folder, beginning, message):
    (folder / "m.bin").write_bytes(beginning + bytes(400))
    assert message in refusal("m.bin")


# Names of files


def test_a_name_that_no_file_can_have_is_answered_in_one_sentence(folder):
    assert "cannot be read: File name too long" in refusal("a" * 300 + ".pt")
    assert "there is no file a\\x00b.pt" in refusal("a\0b.pt")
    (folder / "file").write_text("")
    assert "there is no file file/m.pt" in refusal("file/m.pt")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_refused(folder):
    (folder / "closed").mkdir(mode=0)
    assert "cannot be read: Permission denied" in refusal("closed/m.pt")


def test_a_pipe_is_not_waited_for(folder):
    os.mkfifo("m.pt")
    assert "did you mean" in refusal() or "no model or checkpoint" in refusal()


def test_the_name_of_a_model_leaves_out_its_format(folder):
    weights = made(0).state_dict()
    for name in ("net.pt", "net.pth.tar", "net.ckpt", "net.v2.pt"):
        torch.save(weights, name)
        expected = "net.v2" if "v2" in name else "net"
        assert load(name, arch="net.py:Net", shape=SHAPE, classes=5).classifier.name == expected
    assert load(sharded(weights, folder), arch="net.py:Net", shape=SHAPE, classes=5).classifier.name == "m"
