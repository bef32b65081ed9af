"""The process of a program is not trusted: what it writes becomes plain tensors, or ends it."""

import struct
import sys

import msgspec
import pytest
import torch

from robench.errors import ProgramEnded
from robench.problem.checkpoints.confinement import kernel, process, trees
from robench.problem.checkpoints.confinement import tensors as shared
from robench.problem.checkpoints.confinement.messages import Reply
from robench.problem.checkpoints.confinement.tensors import Placed

from .confining import confined, scripted

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux confines a process"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]

SHAPE = (1, 8, 8)

LYING = {
    "no message": b"}",
    "a number in place of a text": b'{"error":1}',
    "a tensor outside the memory": Reply(tensors=[Placed("float32", [2, 10], [10, 1], 1 << 30)]),
    "a tensor that ends outside the memory": Reply(tensors=[Placed("float32", [1 << 20, 10], [10, 1], 0)]),
    "a negative stride": Reply(tensors=[Placed("float32", [2, 10], [-10, 1], 0)]),
    "a negative start": Reply(tensors=[Placed("float32", [2, 10], [10, 1], -64)]),
    "a start between numbers": Reply(tensors=[Placed("float32", [2, 10], [10, 1], 1)]),
    "a huge size of one number": Reply(tensors=[Placed("float32", [1 << 40], [0], 0)]),
    "sizes beyond any number": Reply(tensors=[Placed("float32", [1 << 62, 1 << 62], [0, 0], 0)]),
    "an unknown type": Reply(tensors=[Placed("object", [2], [1], 0)]),
    "fewer strides than sizes": Reply(tensors=[Placed("float32", [2, 10], [1], 0)]),
    "more room than allowed": Reply(room=1 << 60),
    "a tree of other tensors": Reply(tree=["tensor", 3], tensors=[Placed("float32", [2], [1], 0)], needs_grad=[False]),
    "a tree nested deeply": Reply(tree=["list", [["list", [["list", [["list", [["list", []]]]]]]]]]),
    "fewer marks than tensors": Reply(tree=["tensor", 0], tensors=[Placed("float32", [2], [1], 0)]),
    "no generator's state": Reply(random=Placed("float32", [2], [1], 0)),
    "a longer state": Reply(random=Placed("uint8", [10000], [1], 0)),
}


@pytest.mark.parametrize("how", LYING)
def test_a_process_that_lies_is_ended(how, monkeypatch):
    program = confined(scripted("return x.flatten(1)"))
    lie = LYING[how]
    text = lie if isinstance(lie, bytes) else msgspec.json.encode(lie)
    monkeypatch.setattr(process, "receive", lambda *about: text)
    with pytest.raises(ProgramEnded, match="gave something else than"):
        program(torch.rand(2, *SHAPE))


def test_texts_of_the_process_are_names_or_nothing():
    for name in ("a b", "class", "", "é"):
        found = trees.put_together(["named", name, ["def", 7, "a"], [["tensor", 0]] * 3], [torch.zeros(1)])
        assert type(found).__name__ == "Unnamed"
        assert len(found) == 3
    with pytest.raises(trees.NoTree):
        trees.put_together(["dict", [1], [["tensor", 0]]], [torch.zeros(1)])


def test_tensors_keep_their_strides_in_shared_memory():
    memory = torch.zeros(1 << 16, dtype=torch.uint8)
    given = [
        torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.rand(4, 6).t(),
        torch.ones(()).expand(3, 4),
        torch.rand(8, 100)[:, :3],
        torch.zeros(0, 3),
        torch.tensor([True, False]),
        torch.rand(3).bfloat16(),
    ]
    ready, places, end = shared.arranged(given, 10)
    assert end < len(memory)
    for tensor, place in zip(ready, places, strict=True):
        shared.write(memory, tensor, place)
    for tensor, place in zip(given, places, strict=True):
        found = shared.read(memory, place, 1 << 16)
        assert torch.equal(found, tensor)
        assert found.dtype == tensor.dtype
        assert place.strides == list(tensor.stride()) or tensor.shape == (8, 3)


def test_the_filter_allows_threads_and_no_processes():
    (number, allowed) = kernel.SYSTEMS["x86_64"]
    calls = {name: int(n) for name, _, n in (entry.partition("=") for entry in allowed.split())}
    program = kernel.filter_program(number, calls, pid=77)

    def verdict(call, *arguments, processor=number):
        about = struct.pack("iIQ6Q", call, processor, 0, *(*arguments, *[0] * (6 - len(arguments))))
        held, at = 0, 0
        while True:
            code, yes, no, k = struct.unpack_from("HBBI", program, 8 * at)
            at += 1
            if code == 0x20:
                (held,) = struct.unpack_from("I", about, k)
            elif code == 0x06:
                return {0x7FFF0000: "allowed", 0x80000000: "killed"}.get(k, k & 0xFFFF)
            else:
                at += yes if (held == k if code == 0x15 else held & k) else no

    assert verdict(0) == verdict(calls["clone"], 0x3D0F00) == verdict(calls["tgkill"], 77) == "allowed"
    assert verdict(calls["fcntl"], 3, 1030) == "allowed"
    refused = [(2,), (41,), (59,), (calls["clone"], 17), (calls["tgkill"], 78), (calls["fcntl"], 3, 4), (5000,), (322,)]
    assert {verdict(*call) for call in refused} == {1}
    assert verdict(0x40000000) == 1  # of the x32 interface
    assert verdict(calls["clone3"]) == 38  # as if it did not exist: the C library then uses clone
    assert verdict(0, processor=0x40000003) == "killed"  # 32-bit calls have other numbers
