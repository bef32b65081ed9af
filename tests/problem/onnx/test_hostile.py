"""An ONNX file that cannot be imported, or that means harm, is refused in one sentence, and nothing large is made."""

import contextlib

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from robench.errors import UserError
from robench.problem import checkpoints
from robench.problem.checkpoints.onnx import importing, layer, parsing, wire
from robench.problem.checkpoints.onnx.forward_only import ForwardOnly

from .graphs import dense, model, ours, written


@pytest.fixture(autouse=True)
def without_runtime(monkeypatch):
    """What ONNX Runtime would compute is refused as well."""
    monkeypatch.setattr(importing, "available", lambda: False)


def load(path, shape=(1, 28, 28), classes=10):
    return checkpoints.load(path, shape=shape, classes=classes)


def refusal(made, folder):
    path = made if not hasattr(made, "SerializeToString") else written(made, folder)
    with pytest.raises(UserError) as caught:
        load(path)
    sentence = str(caught.value)
    assert sentence.startswith(str(path))
    assert "\n" not in sentence
    assert len(sentence) < 600
    return sentence.removeprefix(f"{path} ")


def node(operator, inputs=("x",), outputs=("y",), **attributes):
    return helper.make_node(operator, list(inputs), list(outputs), **attributes)


def changed(change, **about):
    made = dense(**about)
    change(made)
    return made


def whole(*values):
    return np.array(values, dtype="int64")


def external(made):
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def with_branch():
    branch = helper.make_graph([node("Identity", ["x"], ["z"])], "b", [], [helper.make_tensor_value_info("z", 1, None)])
    nodes = [
        node("ReduceMax", outputs=["m"], keepdims=0),
        node("Greater", ["m", "h"], ["c"]),
        node("If", ["c"], then_branch=branch, else_branch=branch),
    ]
    return model(nodes, {"h": np.float32(0.5)})


def initialiser(**fields):
    def change(made):
        for name, value in fields.items():
            field = getattr(made.graph.initializer[0], name)
            if isinstance(value, list):
                del field[:]
                field.extend(value)
            else:
                setattr(made.graph.initializer[0], name, value)

    return change


def input_shape(*sizes):
    def change(made):
        made.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes))

    return change


def image_type(kind):
    return lambda made: setattr(made.graph.input[0].type.tensor_type, "elem_type", kind)


def cycle():
    return model([node("Add", ["x", "b"], ["a"]), node("Add", ["x", "a"], ["b"]), node("Add", ["a", "b"])])


def doubling():
    nodes = [node("Concat", [f"v{i}"] * 2, [f"v{i + 1}"], axis=1) for i in range(40)]
    return model([node("Identity", ["x"], ["v0"]), *nodes, node("Flatten", ["v40"])])


def twice(made):
    made.graph.initializer.add().CopyFrom(made.graph.initializer[0])


REFUSED = {
    "external data": (lambda: changed(external), "has the weights w in another file, which is not read; put all into"),
    "a cycle": (cycle, "is damaged: the Add node a reads b, which no node before it computes"),
    "a missing input": (lambda: model([node("Relu", ["gone"])]), "reads gone, which no node before it computes"),
    "a missing output": (lambda: model([node("Relu")], outputs=("gone",)), "has an output gone that nothing computes"),
    "a name given twice": (lambda: model([node("Relu"), node("Exp")]), "y is computed by the Exp node y"),
    "two weights of one name": (lambda: changed(twice), "names two weights 'w'"),
    "a negative size": (lambda: changed(initialiser(dims=[-1, 1, 5, 5])), "a negative size in [-1, 1, 5, 5]"),
    "a size of its own": (lambda: changed(initialiser(dims=[2**40, 2**40])), "other numbers than its shape needs"),
    "sizes beyond all": (lambda: changed(initialiser(dims=[2**62] * 4)), "other numbers than its shape needs"),
    "cut weights": (lambda: changed(initialiser(raw_data=b"1234567")), "other numbers than its shape needs"),
    "texts": (lambda: changed(initialiser(data_type=TensorProto.STRING)), "has w of type string"),
    "weights of four bits": (lambda: changed(initialiser(data_type=TensorProto.INT4)), "before any quantisation"),
    "weights of type 99": (lambda: changed(initialiser(data_type=99)), "has w of type number 99"),
    "quantised weights": (
        lambda: model(
            [node("DequantizeLinear", ["q", "s"], ["w"]), node("Mul", ["x", "w"])],
            {"q": np.ones(4, dtype="int8"), "s": np.float32(0.1)},
        ),
        "is quantised (operator DequantizeLinear), so it has no gradients; export the model before quantisation",
    ),
    "whole numbers for weights": (
        lambda: changed(
            lambda m: m.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((4, 1, 5, 5), "int8"), "w"))
        ),
        "has whole numbers for weights",
    ),
    "channels last": (
        lambda: changed(input_shape("N", 28, 28, 1)),
        "reads images as height x width x channels (28x28x1), and robench gives channels x height x width",
    ),
    "bytes for pixels": (lambda: changed(image_type(TensorProto.UINT8)), "reads images of type uint8"),
    "no type": (lambda: changed(image_type(0)), "reads images of type undefined"),
    "a negative image": (lambda: changed(input_shape("N", 1, -28, 28)), "has an input of shape ?x1x-28x28"),
    "images beyond all": (
        lambda: changed(input_shape("N", 1, 2**62, 28)),
        "has an input of shape ?x1x4611686018427387904x28, more numbers than any image",
    ),
    "no image": (lambda: changed(input_shape("N", "T")), "reads inputs of ?x?, not images"),
    "no shape": (
        lambda: changed(lambda m: m.graph.input[0].type.tensor_type.ClearField("shape")),
        "does not say which shape its input x has",
    ),
    "two inputs": (
        lambda: model([node("Add", ["x", "z"])], more_inputs=[helper.make_tensor_value_info("z", 1, ["N"])]),
        "needs one input, the images, but has 2 (x, z)",
    ),
    "a condition": (with_branch, "has the operator If (If node y), whose graph may change from image to image"),
    "a sequence": (lambda: model([node("SequenceConstruct")]), "has the operator SequenceConstruct"),
    "an unknown operator": (
        lambda: model([node("NonZero")]),
        "has the operator NonZero, which robench does not import",
    ),
    "another domain": (
        lambda: model([node("FusedConv", domain="com.microsoft")], domains=["com.microsoft"]),
        "has the operator FusedConv of com.microsoft, which is not ONNX's own",
    ),
    "an old opset": (lambda: changed(lambda m: None, opset=6), "uses opset 6, and robench reads 7 to 28; convert it"),
    "an opset to come": (lambda: changed(lambda m: setattr(m.opset_import[0], "version", 99)), "uses opset 99"),
    "no opset": (lambda: changed(lambda m: m.ClearField("opset_import")), "does not name one version of the ONNX"),
    "no graph": (lambda: changed(lambda m: m.ClearField("graph")), "is not an ONNX file with a graph"),
    "an attribute more": (lambda: model([node("Relu", alpha=0.5)]), "the Relu node y has the attribute alpha"),
    "a second output": (
        lambda: model([node("Dropout", outputs=["y", "mask"])], outputs=("y", "mask")),
        "has a second output, mask",
    ),
    "a condition without an input": (lambda: model([node("If", [])]), "has no condition"),
    "a branch without graphs": (lambda: model([node("If", ["c"])], {"c": np.array(True)}), "has the operator If"),
    "a place outside": (
        lambda: model([node("GatherND", ["x", "i"])], {"i": whole([5])}),
        "an index out of",
    ),
    "more indices than axes": (
        lambda: model([node("GatherND", ["x", "i"])], {"i": whole([0, 0, 0, 0, 0])}),
        "places with 5 indices in a tensor of 4 axes",
    ),
    "a huge image": (
        lambda: model([node("Resize", ["x", "", "s"])], {"s": np.array([1, 1, 4000, 4000], "float32")}),
        "a tensor of",
    ),
    "a scale without end": (
        lambda: model([node("Resize", ["x", "", "s"])], {"s": np.array([1, 1, np.inf, 1], "float32")}),
        "a scale of inf",
    ),
    "a depth without end": (
        lambda: model(
            [node("Cast", ["x"], ["i"], to=7), node("OneHot", ["i", "d", "v"])],
            {"d": whole(2**40), "v": np.zeros(2, "float32")},
        ),
        "a tensor of",
    ),
    "a remainder of zero": (
        lambda: model([node("Mod", ["a", "b"], ["q"]), node("Reshape", ["x", "q"])], {"a": whole(1), "b": whole(0)}),
        "division of a whole number by zero",
    ),
    "types that do not multiply": (
        lambda: model([node("Flatten", outputs=["f"]), node("MatMul", ["f", "w"])], {"w": np.ones((784, 10), "int64")}),
        "cannot be computed: float32 and int64 cannot be multiplied as matrices in the MatMul node y",
    ),
    "an attribute of another type": (lambda: model([node("LeakyRelu", alpha=1)]), "of another type than its operator"),
    "training": (
        lambda: model([node("Dropout", ["x", "r", "t"])], {"r": np.float32(0.5), "t": np.array(True)}),
        "the Dropout node y is in training mode",
    ),
    "a huge constant": (
        lambda: model([node("ConstantOfShape", ["s"], ["c"]), node("Add", ["x", "c"])], {"s": whole(2**40)}),
        "is damaged: ValueError: a tensor of 1099511627776",
    ),
    "a huge expansion": (
        lambda: model([node("Expand", ["x", "s"])], {"s": whole(2**20, 2**20, 28, 28)}),
        "in the Expand node y",
    ),
    "huge padding": (
        lambda: model([node("Pad", ["x", "p"])], {"p": whole(0, 0, 0, 0, 0, 0, 2**30, 2**30)}),
        "in the Pad node y",
    ),
    "a huge product of weights": (
        lambda: model(
            [node("MatMul", ["a", "b"], ["c"]), node("Mul", ["x", "c"])],
            {"a": np.zeros((2**16, 1), "float32"), "b": np.zeros((1, 2**16), "float32")},
        ),
        "too large for any machine: 4,294,967,296 numbers in the MatMul node c",
    ),
    "doubling, again and again": (doubling, "too large for any machine"),
    "the smallest number divided by -1": (
        lambda: model(
            [node("Div", ["a", "b"], ["q"]), node("Reshape", ["x", "q"])], {"a": whole(-(2**63)), "b": whole(-1)}
        ),
        "",
    ),
    "division by zero": (
        lambda: model([node("Div", ["a", "b"], ["q"]), node("Reshape", ["x", "q"])], {"a": whole(1), "b": whole(0)}),
        "division of a whole number by zero",
    ),
    "an index out of range": (
        lambda: model([node("Gather", ["x", "i"])], {"i": whole(10**6)}),
        "an index out of 2",
    ),
    "a stride of 0": (lambda: changed(lambda m: m.graph.node[0].attribute[0].ints.__setitem__(0, 0)), "has [0, 2]"),
    "a kernel beyond all": (
        lambda: model([node("MaxPool", kernel_shape=[2**62, 2**62])]),
        "in the MaxPool node y",
    ),
    "a sum over all channels and far beyond": (lambda: model([node("LRN", size=2**31 - 1)]), "has size=2147483647"),
    "an einsum whose steps are larger than its result": (
        lambda: model(
            [node("Flatten", outputs=["f"]), node("Einsum", ["f", "a", "b"], equation="ni,jk,ij->nk")],
            {"a": np.zeros((2**10, 10), "float32"), "b": np.zeros((784, 2**10), "float32")},
        ),
        "the Einsum node y has 3 inputs",
    ),
    "images of another size": (
        lambda: dense(sizes=("N", 1, 32, 32)),
        "reads 1x32x32 images, but those of the data are",
    ),
    "images of other channels": (
        lambda: dense(sizes=("N", 3, 28, 28)),
        "reads 3-channel images, but those of the data are 1x28x28",
    ),
}


@pytest.mark.costly
@pytest.mark.parametrize("fault", REFUSED)
def test_a_file_with_this_fault_is_refused_in_one_sentence(fault, tmp_path):
    made, message = REFUSED[fault]
    assert message in refusal(made(), tmp_path)


def test_nodes_that_the_outputs_do_not_need_do_not_matter(tmp_path):
    nodes = [node("NonZero", outputs=["unused"]), node("Flatten")]
    path = written(model(nodes), tmp_path)
    x = np.zeros((1, 1, 28, 28), dtype="float32")
    assert ours(importing.import_onnx(path, ForwardOnly)[0].network, x)[0].shape == (1, 784)


def _field(number, content):
    """A field of protobuf with bytes in it."""
    length, n = b"", len(content)
    while n > 127:
        length += bytes([n & 127 | 128])
        n >>= 7
    return bytes([number << 3 | 2]) + length + bytes([n]) + content


def test_a_deeply_nested_file_is_refused(tmp_path):
    inner = b""
    for _ in range(200):  # a graph in an attribute of a node of a graph
        inner = _field(1, _field(5, _field(6, inner)))
    path = tmp_path / "deep.onnx"
    path.write_bytes(b"\x08\x08" + _field(7, inner))
    assert "nested too deeply" in refusal(path, tmp_path)


def test_a_file_of_very_many_parts_is_refused_before_it_is_parsed(tmp_path, monkeypatch):
    def parsed(data):
        raise AssertionError("parsed")

    monkeypatch.setattr(wire, "PARTS", 2000)
    data = b"\x08\x08" + _field(7, b"\x0a\x00" * (wire.PARTS + 1))
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    monkeypatch.setattr(onnx.ModelProto, "FromString", parsed, raising=False)
    assert "has far more parts than a classifier" in refusal(path, tmp_path)


def test_the_parts_of_a_sound_file_are_counted():
    data = dense().SerializeToString()
    assert not wire.too_many_parts(data, onnx.ModelProto.DESCRIPTOR)
    assert all(not wire.too_many_parts(data[:n], onnx.ModelProto.DESCRIPTOR) for n in range(0, len(data), 997))


def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    path = written(dense(), tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    assert "pip install 'robench[onnx]'" in refusal(path, tmp_path)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_refused(share, tmp_path):
    data = dense().SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(data[: int(share * len(data))])
    refusal(path, tmp_path)


SMALL = model(
    [node("Reshape", ["x", "s"], ["f"]), node("Gemm", ["f", "w"], ["g"]), node("Softmax", ["g"], axis=1)],
    {"s": whole(0, -1), "w": np.ones((784, 3), "float32")},
).SerializeToString()
PLACES = st.one_of(st.integers(0, 260), st.integers(len(SMALL) - 200, len(SMALL) - 1))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(PLACES, st.binary(min_size=1, max_size=3)), min_size=1, max_size=4), st.booleans())
def test_a_changed_file_is_read_or_refused_in_one_sentence(tmp_path, changes, inserted):
    data = bytearray(SMALL)
    for place, new in changes:
        data[place : place + (0 if inserted else len(new))] = new
    path = tmp_path / "m.onnx"
    path.write_bytes(bytes(data))
    with contextlib.suppress(UserError):
        load(path, classes=3)


def test_limits_are_those_of_the_documentation():
    assert (layer.LARGEST, parsing.NODES, parsing.OLDEST) == (2**28, 100_000, 7)
