"""An ONNX file becomes a module with the same answers, with gradients, for any number of images."""

import io
import warnings
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import robench
from robench.problem import checkpoints, datasets, outputs
from robench.problem.batches import InBatchesOf

from ..programs import PROGRAMS
from .graphs import dense, imported, model, ours, runtime, written

SHAPE = (1, 28, 28)


def images(n, *shape):
    return np.random.default_rng(0).random((n, *(shape or SHAPE))).astype("float32")


def load(path, shape=SHAPE, classes=10, **options):
    return checkpoints.load(path, shape=shape, classes=classes, **options)


def same(made, x, folder):
    for here, there in zip(ours(imported(made, folder), x), runtime(made, x), strict=True):
        assert here.shape == there.shape
        np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)


def exported(network, path, shape, *, dynamo=False, images=1, any_number=False, opset=17):
    """A file that PyTorch exports."""
    axes = {"dynamic_axes": {"input": {0: "N"}, "logits": {0: "N"}}} if any_number and not dynamo else {}
    shapes = {"dynamic_shapes": ({0: torch.export.Dim("N")},)} if any_number and dynamo else {}
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        example = (torch.rand(2 if any_number else images, *shape),)
        about = {"input_names": ["input"], "output_names": ["logits"], "opset_version": opset, **axes, **shapes}
        torch.onnx.export(network.eval(), example, str(path), dynamo=dynamo, external_data=False, **about)
    return path


def test_a_graph_whose_shapes_depend_on_the_number_of_images(tmp_path):
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Unsqueeze", ["n", "axis"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest"], ["to"], axis=0),
        helper.make_node("Reshape", ["x", "to"], ["f"]),
        helper.make_node("Concat", ["n1", "two"], ["t"], axis=0),
        helper.make_node("ConstantOfShape", ["t"], ["ones"], value=helper.make_tensor("v", 1, [1], [1.5])),
        helper.make_node("Concat", ["f", "ones"], ["y"], axis=1),
    ]
    constants = {"zero": 0, "axis": [0], "rest": [-1], "two": [2]}
    made = model(nodes, {name: np.array(value, dtype="int64") for name, value in constants.items()})
    for n in (1, 2, 5):
        same(made, images(n), tmp_path)


def test_comparisons_logic_and_types(tmp_path):
    nodes = [
        helper.make_node("Constant", [], ["half"], value_float=0.5),
        helper.make_node("Greater", ["x", "half"], ["a"]),
        helper.make_node("Less", ["x", "c"], ["b"]),
        helper.make_node("Or", ["a", "b"], ["e"]),
        helper.make_node("Not", ["e"], ["g"]),
        helper.make_node("GreaterOrEqual", ["x", "half"], ["h"]),
        helper.make_node("LessOrEqual", ["x", "c"], ["i"]),
        helper.make_node("And", ["h", "i"], ["j"]),
        helper.make_node("Equal", ["g", "j"], ["k"]),
        helper.make_node("Cast", ["k"], ["l"], to=TensorProto.FLOAT),
        helper.make_node("Size", ["x"], ["m"]),
        helper.make_node("Cast", ["m"], ["o"], to=TensorProto.FLOAT),
        helper.make_node("Range", ["p", "q", "r"], ["s"]),
        helper.make_node("Cast", ["s"], ["t"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["l", "t"], ["u"]),
        helper.make_node("Div", ["u", "o"], ["y"]),
    ]
    numbers = {name: np.array(value, dtype="int64") for name, value in {"p": 0, "q": 28, "r": 1}.items()}
    same(model(nodes, {"c": np.float32(0.25), **numbers}), images(3), tmp_path)


def branch(operator, inside="z"):
    """A branch that computes this of `x`."""
    nodes = [helper.make_node(operator, ["x"], ["t"]), helper.make_node("Mul", ["t", "two"], [inside])]
    two = numpy_helper.from_array(np.float32(2), "two")
    out = [helper.make_tensor_value_info(inside, TensorProto.FLOAT, None)]
    return helper.make_graph(nodes, "branch", [], out, [two])


def test_a_branch_with_a_constant_condition_is_taken(tmp_path):
    for holds in (True, False):
        nodes = [
            helper.make_node("If", ["c"], ["a"], then_branch=branch("Exp"), else_branch=branch("Neg")),
            helper.make_node("If", ["c"], ["b"], then_branch=branch("Neg"), else_branch=branch("Exp")),
            helper.make_node("Sub", ["a", "b"], ["y"]),
        ]
        same(model(nodes, {"c": np.array(holds)}), images(2), tmp_path)


def test_a_branch_whose_condition_follows_from_the_sizes_is_taken_also_inside_another(tmp_path):
    inner = helper.make_node("If", ["c"], ["z"], then_branch=branch("Exp"), else_branch=branch("Neg"))
    out = [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    outer = helper.make_graph([inner], "outer", [], out)
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "two"], ["height"]),
        helper.make_node("Equal", ["height", "n"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=outer, else_branch=branch("Abs")),
    ]
    for n in (28, 27):
        same(model(nodes, {"two": np.array(2), "n": np.array(n)}), images(3), tmp_path)


class Squeezed(nn.Module):
    """Drops axes of length 1, whose number an exporter does not know."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 5, 2), nn.Linear(4, 10)

    def forward(self, x):
        return self.head(F.adaptive_avg_pool2d(F.relu(self.conv(x)), 1).squeeze(3).squeeze(2))


def test_what_pytorch_exports_for_squeeze_is_imported(tmp_path):
    network = Squeezed().eval()
    path = exported(network, tmp_path / "m.onnx", SHAPE, any_number=True)
    x = torch.rand(3, *SHAPE)
    torch.testing.assert_close(load(path).classifier(x), network(x), rtol=1e-4, atol=1e-5)


def test_whole_numbers_are_divided_without_their_fraction(tmp_path):
    constants = {"a": np.array([7, -7, 9], dtype="int64"), "b": np.array([2, 2, -1], dtype="int64")}
    nodes = [
        helper.make_node("Div", ["a", "b"], ["q"]),
        helper.make_node("Cast", ["q"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[1, 2, 3]),
        helper.make_node("Flatten", ["m"], ["v"]),
        helper.make_node("Mul", ["v", "f"], ["y"]),
    ]
    same(model(nodes, constants), images(2), tmp_path)


@pytest.mark.costly
@pytest.mark.parametrize("dynamo", [False, True], ids=["TorchScript", "dynamo"])
@pytest.mark.parametrize("name", ["small", "residual", "attention, fused", "attention, written out"])
def test_a_network_that_pytorch_exports_answers_as_before(name, dynamo, tmp_path):
    torch.manual_seed(0)
    network = PROGRAMS[name]().eval()
    opset = 18 if dynamo else 17
    path = exported(network, tmp_path / "m.onnx", (1, 8, 8), dynamo=dynamo, any_number=True, opset=opset)
    loaded = load(path, (1, 8, 8)).classifier
    x = torch.rand(5, 1, 8, 8, requires_grad=True)
    for weight in network.parameters():
        weight.requires_grad_(False)
    torch.testing.assert_close(loaded(x), network(x), rtol=1e-4, atol=1e-5)
    direction = torch.randn(5, 10)
    here, there = (torch.autograd.grad((f(x) * direction).sum(), x)[0] for f in (loaded, network))
    torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-5)


def test_gradients_are_those_of_finite_differences(tmp_path):
    random = np.random.default_rng(0)
    constants = {
        "w": random.normal(size=(3, 1, 3, 3)),
        **{name: random.uniform(0.5, 1, size=3) for name in ("scale", "bias", "mean", "variance")},
        "v": random.normal(size=(48, 10)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 0, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "scale", "bias", "mean", "variance"], ["b"]),
        helper.make_node("Sigmoid", ["b"], ["c"]),
        helper.make_node("Mul", ["b", "c"], ["d"]),
        helper.make_node("AveragePool", ["d"], ["e"], kernel_shape=[2, 2], strides=[2, 2], pads=[1, 0, 0, 1]),
        helper.make_node("Elu", ["e"], ["f"]),
        helper.make_node("Flatten", ["f"], ["g"]),
        helper.make_node("MatMul", ["g", "v"], ["h"]),
        helper.make_node("Softmax", ["h"], ["y"], axis=1),
    ]
    made = model(nodes, {k: v.astype("float32") for k, v in constants.items()}, sizes=("N", 1, 7, 8))
    network = imported(made, tmp_path).double()
    x = torch.rand(2, 1, 7, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(network, (x,), atol=1e-6)


class Viewing(nn.Module):
    """Flattens with a shape that the export fixes."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 5, 2), nn.Linear(576, 10)

    def forward(self, x):
        return self.head(F.relu(self.conv(x)).reshape(len(x), -1))


class Mixing(Viewing):
    """Answers that depend on the other images."""

    def forward(self, x):
        y = super().forward(x)
        return y - y.mean(dim=0, keepdim=True)


@pytest.mark.costly
@pytest.mark.parametrize("dynamo", [False, True], ids=["TorchScript", "dynamo"])
def test_a_file_for_one_image_takes_more_if_their_logits_are_the_same(dynamo, tmp_path):
    torch.manual_seed(0)
    network = Viewing().eval()
    opset = 18 if dynamo else 17
    loaded = load(exported(network, tmp_path / "m.onnx", SHAPE, dynamo=dynamo, opset=opset))
    assert "the file is for 1 image at a time; more give the same logits, so they are taken" in loaded.notes
    assert not any(isinstance(module, InBatchesOf) for module in loaded.classifier.module.modules())
    x = torch.rand(7, *SHAPE)
    torch.testing.assert_close(loaded.classifier(x), network(x), rtol=1e-4, atol=1e-5)


def test_a_file_for_four_images_whose_answers_depend_on_each_other_gets_four(tmp_path):
    torch.manual_seed(0)
    network = Mixing().eval()
    loaded = load(exported(network, tmp_path / "m.onnx", SHAPE, images=4))
    assert "the file is for exactly 4 images at a time" in loaded.notes
    assert "the model accepts only batches of exactly 4 images: batches are padded" in loaded.notes
    x = torch.rand(8, *SHAPE)
    expected = torch.cat([network(x[:4]), network(x[4:])])
    torch.testing.assert_close(loaded.classifier(x), expected, rtol=1e-4, atol=1e-5)


def test_flat_pixels_are_given_row_by_row_with_a_note(tmp_path):
    weights = {"w": np.random.default_rng(0).normal(size=(784, 10)).astype("float32")}
    made = model([helper.make_node("MatMul", ["x", "w"], ["y"])], weights, sizes=("N", 784))
    loaded = load(written(made, tmp_path))
    assert "the pixels are given to it row by row, as 784 numbers" in loaded.notes
    x = images(3)
    np.testing.assert_allclose(loaded.classifier(torch.tensor(x)), x.reshape(3, 784) @ weights["w"], atol=1e-4)


def test_half_precision_is_computed_in_float32_with_a_note(tmp_path):
    weights = {"w": np.random.default_rng(0).normal(size=(784, 10)).astype("float16")}
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    loaded = load(written(model(nodes, weights, kind=TensorProto.FLOAT16), tmp_path))
    assert "the graph is in float16 and is computed in float32" in loaded.notes
    assert {weight.dtype for weight in loaded.classifier.module.parameters()} == {torch.float32}


def test_of_several_outputs_the_logits_are_taken_by_name(tmp_path):
    weights = {"w": np.random.default_rng(0).normal(size=(784, 10)).astype("float32")}
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    loaded = load(written(model(nodes, weights, outputs=("probabilities", "logits")), tmp_path))
    assert any("'logits' is taken as the logits" in note for note in loaded.notes)
    assert outputs.caution(loaded.classifier.module) == (
        "the model returns several outputs of one shape: 'logits' is taken as the logits, not 'probabilities'"
    )


def test_which_of_two_outputs_was_taken_stands_under_the_table_of_the_run(tmp_path):
    weights = {name: np.random.default_rng(0).normal(size=(784, 10)).astype("float32") for name in "vw"}
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["one"]),
        helper.make_node("MatMul", ["f", "v"], ["two"]),
    ]
    path = written(model(nodes, weights, outputs=("one", "two")), tmp_path)
    options = {"threats": ["linf:0.1"], "attacks": ["pgd(steps=1)"], "examples": 2, "run": tmp_path / "r.robench"}
    assert "'one' is taken as the logits, not 'two'" in str(robench.evaluate(str(path), "digits", **options))


def test_a_file_without_its_suffix_is_recognised_and_identified_by_its_content(tmp_path):
    path = written(dense(), tmp_path).rename(tmp_path / "model")
    classifier = load(path).classifier
    assert classifier.architecture.startswith("onnx:")
    assert len(classifier.architecture) == len("onnx:") + 16
    again = load(written(dense(), tmp_path)).classifier
    assert again.identity().same_as(classifier.identity())
    other = load(written(dense(opset=18), tmp_path)).classifier
    assert other.architecture != classifier.architecture


def test_weights_in_the_file_load_into_an_architecture_that_the_user_names(tmp_path):
    network = checkpoints.load("digits-nat").classifier.module
    path = exported(network, tmp_path / "m.onnx", SHAPE)
    named = load(path, arch="digits-cnn").classifier
    x = torch.rand(2, *SHAPE)
    torch.testing.assert_close(named(x), network(x))


def test_layers_are_pytorchs_own_so_that_low_precision_reaches_them(tmp_path):
    kinds = {type(module) for module in load(written(dense(), tmp_path)).classifier.module.modules()}
    assert {nn.Conv2d, nn.Linear} <= kinds


@pytest.mark.costly
@pytest.mark.parametrize("name", ["digits-nat", "digits-adv-linf", "digits-adv-l2"])
def test_a_digits_model_has_the_same_outcomes_as_from_its_own_file(name, tmp_path):
    original = checkpoints.load(name).classifier
    path = exported(original.module, tmp_path / "m.onnx", SHAPE, any_number=True)
    options = {"threats": ["linf:0.1"], "attacks": ["pgd(steps=8)"], "examples": 12, "precision": "float32"}
    here, there = (
        robench.evaluate(source, "digits", run=tmp_path / f"{i}.robench", **options)
        for i, source in enumerate((str(path), name))
    )
    split = datasets.load("digits").take(range(12))
    logits = original(split.x).sort(dim=1).values
    near = (logits[:, -1] - logits[:, -2] < 1e-4).nonzero().flatten().tolist()
    assert near == [], "margins too small to compare"
    assert here.examples().equals(there.examples())


@pytest.mark.parametrize(("kind", "name"), [(TensorProto.FLOAT16, "float16"), (TensorProto.BFLOAT16, "bfloat16")])
def test_a_cast_to_half_precision_inside_the_graph_is_noted(tmp_path, kind, name):
    weights = {"w": np.random.default_rng(0).normal(size=(784, 10)).astype("float32")}
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Cast", ["f"], ["h"], to=kind),
        helper.make_node("Cast", ["h"], ["g"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["g", "w"], ["y"]),
    ]
    assert f"the graph is in {name} and is computed in float32" in load(written(model(nodes, weights), tmp_path)).notes
