"""A graph that robench does not import is computed by ONNX Runtime, without gradients, and within limits."""

import copy

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

import robench
from robench.errors import UserError
from robench.problem import checkpoints, datasets
from robench.problem.checkpoints.onnx import forward_only
from robench.problem.checkpoints.programs import TRUSTED, confinement

from .graphs import model, runtime, written
from .test_importing import exported

SHAPE = (1, 28, 28)


def node(operator, inputs=("x",), outputs=("y",), **attributes):
    return helper.make_node(operator, list(inputs), list(outputs), **attributes)


def whole(*values):
    return np.array(values, dtype="int64")


def floats(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def load(made, folder, classes=10):
    return checkpoints.load(written(made, folder), shape=SHAPE, classes=classes)


def quantised():
    nodes = [
        node("Flatten", outputs=["f"]),
        node("QuantizeLinear", ["f", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("MatMul", ["d", "w"]),
    ]
    return model(nodes, {"s": np.float32(1 / 255), "z": np.uint8(0), "w": floats(784, 10)})


def hardmax(**about):
    nodes = [node("Flatten", outputs=["f"]), node("MatMul", ["f", "w"], ["l"]), node("Hardmax", ["l"])]
    return model(nodes, {"w": floats(784, 10)}, **about)


def test_a_graph_with_an_operator_that_is_not_imported_answers_as_onnx_runtime_does(tmp_path):
    loaded = load(quantised(), tmp_path)
    x = torch.rand(130, *SHAPE)
    np.testing.assert_allclose(loaded.classifier(x), runtime(quantised(), x.numpy())[0], rtol=1e-4, atol=1e-5)
    assert any("ONNX Runtime computes it, without gradients" in note for note in loaded.notes)
    assert any("is quantised (operator" in note for note in loaded.notes)


def test_onnx_runtime_reads_the_file_in_a_process_that_can_only_compute(tmp_path):
    assert confinement(load(quantised(), tmp_path).classifier.module).startswith("seccomp")


def test_a_trusted_file_is_read_here_and_answers_the_same(tmp_path):
    path = written(quantised(), tmp_path)
    confined = checkpoints.load(path, shape=SHAPE, classes=10).classifier
    trusted = checkpoints.load(path, shape=SHAPE, classes=10, trust_pickle=True).classifier
    assert confinement(trusted.module) == TRUSTED
    x = torch.rand(3, *SHAPE)
    assert torch.equal(trusted(x), confined(x))


def test_a_copy_answers_the_same(tmp_path):
    module = load(quantised(), tmp_path).classifier.module
    x = torch.rand(3, *SHAPE)
    assert torch.equal(copy.deepcopy(module)(x), module(x))


def test_a_file_for_a_fixed_number_of_images_gets_as_many(tmp_path):
    made = hardmax(sizes=(4, 1, 28, 28), out=(4, 10))
    loaded = load(made, tmp_path)
    assert any("only batches of exactly 4 images" in note for note in loaded.notes)
    x = torch.rand(8, *SHAPE)
    expected = np.concatenate([runtime(made, part.numpy())[0] for part in x.split(4)])
    np.testing.assert_array_equal(loaded.classifier(x), expected)


def test_without_onnx_runtime_the_message_names_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setattr("robench.problem.checkpoints.onnx.importing.available", lambda: False)
    with pytest.raises(UserError, match=r"pip install 'robench\[onnxruntime\]'"):
        load(quantised(), tmp_path)


def looped():
    body = helper.make_graph(
        [node("Identity", ["c"], ["c2"]), node("Exp", ["v"], ["v2"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("c2", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v2", TensorProto.FLOAT, None),
        ],
    )
    constants = {"n": np.array(2**62), "t": np.array(True)}
    return model([node("Flatten", outputs=["f"]), node("Loop", ["n", "t", "f"], body=body)], constants)


def with_external_data_in_a_loop():
    made = looped()
    tensor = made.graph.node[1].attribute[0].g.initializer.add()
    tensor.name, tensor.data_location = "secret", TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return made


def with_functions():
    made = hardmax()
    made.functions.append(
        helper.make_function("own", "F", ["a"], ["b"], [node("Relu", ["a"], ["b"])], made.opset_import)
    )
    return made


REFUSED = {
    "a loop": (looped, "has the operator Loop, which may run without end"),
    "weights elsewhere": (with_external_data_in_a_loop, ""),
    "functions": (with_functions, "has functions of its own"),
    "an operator that reads files": (
        lambda: model([node("EPContext", domain="com.microsoft")], domains=["com.microsoft"]),
        "has the operator EPContext of com.microsoft",
    ),
    "an operator of nobody": (
        lambda: model([node("NonZero", outputs=["z"]), node("Nothing", ["z"])]),
        "cannot be read by ONNX Runtime",
    ),
    "memory beyond a limit": (
        lambda: model(
            [
                node("Hardmax", outputs=["h"]),
                node("ConstantOfShape", ["s"], ["c"]),
                node("ReduceSum", ["c", "a"], ["d"], keepdims=1),
                node("Mul", ["h", "d"], ["e"]),
                node("Flatten", ["e"]),
            ],
            {"s": whole(2**33), "a": whole(0)},
        ),
        "ONNX Runtime fails",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_graph_that_may_do_more_than_compute_is_refused_in_one_sentence(fault, tmp_path):
    made, message = REFUSED[fault]
    with pytest.raises(UserError) as caught:
        load(made(), tmp_path)
    sentence = str(caught.value)
    assert message in sentence
    assert "\n" not in sentence
    assert len(sentence) < 600


@pytest.mark.costly
def test_gradient_attacks_leave_examples_open_and_others_break_some(tmp_path, monkeypatch):
    network = checkpoints.load("digits-nat").classifier.module
    path = exported(network, tmp_path / "m.onnx", SHAPE, any_number=True)
    monkeypatch.setattr("robench.problem.checkpoints.onnx.importing.OPERATORS", {})
    options = {"threats": ["linf:0.3"], "examples": 6, "run": tmp_path / "r.robench"}
    summary = robench.evaluate(str(path), "digits", attacks=["pgd(steps=2)", "square(steps=30)"], **options)
    text = repr(summary)
    assert "the model has no gradients" in text
    (threat,) = summary.threats
    assert threat.broken
    assert threat.standing == 0
    assert datasets.load("digits").take(range(6)).shape == SHAPE


def test_labels_alone_suggest_the_attacks_that_read_labels(tmp_path):
    nodes = [
        node("Flatten", outputs=["f"]),
        node("MatMul", ["f", "w"], ["l"]),
        node("ArgMax", ["l"], axis=1, keepdims=0),
    ]
    made = model(nodes, {"w": floats(784, 10)}, out=("N",))
    made.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    path = written(made, tmp_path)
    options = {"threats": ["linf:0.3"], "examples": 40, "run": tmp_path / "r.robench"}
    with pytest.raises(UserError) as caught:
        robench.evaluate(str(path), "digits", attacks=["pgd(steps=2)"], **options)
    assert "the model has no gradients; hop-skip-jump and rays read none" in str(caught.value)


def test_the_limits_are_those_of_the_documentation():
    assert forward_only.MEMORY == 8 * 2**30
