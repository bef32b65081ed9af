"""TorchScript of strangers: what only computes is loaded, everything else is refused before any of it runs."""

import io
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from robench.errors import UserError
from robench.problem.checkpoints import load, torchscript
from robench.problem.checkpoints.torchscript import inspect_apart, operators
from robench.problem.checkpoints.torchscript.inspection import Inspection
from robench.problem.checkpoints.torchscript.process import inspect

from .archives import SOURCE, archive, instance, net, tensor, text
from .programs import PROGRAMS

ADD = "x = torch.add(x, torch.sum(y))"  # so that torch does not leave y out
FILE = 'torch.from_file("W", True, 4)'
TO = f"y = {FILE}\n{ADD}"
SUB = f"""class Sub(Module):
  __parameters__ = []
  __buffers__ = []
  training : bool
  def run(self: __torch__.Sub,
    x: Tensor) -> Tensor:
    return {FILE}
"""
RUNS = "class Runs(ModuleInterface):\n  def run(self, x: Tensor) -> Tensor:\n    pass\n"
WRITES = f"def f(x: Tensor) -> Tensor:\n  return {FILE}\n"
GUARD = """class Guard:
  n : int
  def __init__(self: __torch__.Guard) -> NoneType:
    self.n = 1
    return None
  def __enter__(self: __torch__.Guard) -> NoneType:
    torch.save(1, "W")
    return None
  def __exit__(self: __torch__.Guard,
    kind: Any,
    value: Any,
    trace: Any) -> NoneType:
    return None
"""
WITH = "g = __torch__.Guard.__new__(__torch__.Guard)\n_0 = (g).__init__()\nwith g:\n  x = torch.relu(x)"
SETSTATE = """def __setstate__(self: __torch__.Net,
  state: Dict[str, bool]) -> NoneType:
{body}  self.training = False
  return None
def __getstate__(self: __torch__.Net) -> Dict[str, bool]:
  return {{"training": False}}"""


EMPTY = b"}(" + text("training") + b"\x89u"


def with_setstate(body, state=EMPTY):
    """An archive whose object is made of `state` by a `__setstate__` that runs `body`."""
    methods = SETSTATE.format(body="".join(f"  {line}\n" for line in body.splitlines()))
    methods = "".join(f"  {line}\n" for line in methods.splitlines())
    return archive(
        {"__torch__": SOURCE.format(attributes="", body="", methods=methods)}, b"c__torch__\nNet\n)\x81" + state + b"b"
    )


def method(line):
    return f"def g(self: __torch__.Net,\n  x: Tensor) -> Tensor:\n  {line}"


sub = instance("__torch__.Sub", training=False)
WAYS = {
    "in the forward pass": net(TO),
    "a name with an octal escape": net(f'y = getattr(torch, "from\\137file")("W", True, 4)\n{ADD}'),
    "a name put together": net(f'y = getattr(torch, "from_" "file")("W", True, 4)\n{ADD}'),
    "another name for torch": net(f't = torch\ny = t.from_file("W", True, 4)\n{ADD}'),
    "another name for the operator": net(f'f = torch.from_file\ny = f("W", True, 4)\n{ADD}'),
    "the namespace": net(f'y = ops.aten.from_file("W", True, 4)\n{ADD}'),
    "another name for the namespaces": net(f'o = ops\na = o.aten\ny = getattr(a, "from_file")("W", True, 4)\n{ADD}'),
    "the overload that writes to a tensor": net(f'y = torch.from_file("W", True, 4, out=torch.zeros([4]))\n{ADD}'),
    "torch.save": net('torch.save(x, "W")'),
    "aten::save": net('ops.aten.save(x, "W")'),
    "save by an escape": net('getattr(torch, "\\163ave")(x, "W")'),
    "a submodule": net("y = (self.sub).run(x)\n" + ADD, before=SUB, attributes="sub : __torch__.Sub", sub=sub),
    "an interface": net("y = (self.sub).run(x)\n" + ADD, before=SUB + RUNS, attributes="sub : __torch__.Runs", sub=sub),
    "__setstate__": with_setstate('torch.save(1, "W")'),
    "__setstate__ by an escape": with_setstate('getattr(torch, "sa\\166e")(1, "W")'),
    "a free function": net("y = __torch__.f(x)\n" + ADD, after=WRITES),
    "a function in another file": net("y = __torch__.other.f(x)\n" + ADD, other=WRITES),
    "a method": net("y = (self).g(x)\n" + ADD, methods=method(f"return {FILE}")),
    "a property": net(
        "y = (self).__size_getter()\n" + ADD,
        methods=f"def __size_getter(self: __torch__.Net) -> Tensor:\n  return {FILE}",
    ),
    "a hook": net(
        attributes='__forward_hooks__ = ["hook", ]',
        methods=f"def hook(self: __torch__.Net,\n  x: Tuple[Tensor],\n  y: Tensor) -> Tensor:\n  return {FILE}",
    ),
    "a hook before": net(
        attributes='__forward_pre_hooks__ = ["hook", ]',
        methods="def hook(self: __torch__.Net,\n  x: Tuple[Tensor]) -> Tuple[Tensor]:\n"
        f"  return (torch.view({FILE}, [2, 2]),)",
    ),
    "a context manager": net(WITH, after=GUARD),
    "the default of an argument": net(
        methods=f"def g(self: __torch__.Net,\n  x: Tensor={FILE}) -> Tensor:\n  return x"
    ),
    "a default inside a list": net(
        methods=f"def g(self: __torch__.Net,\n  x: List[Tensor]=[{FILE}]) -> int:\n  return 1"
    ),
    "the default of a function": net(
        "_0 = __torch__.f(1)", after=f"def f(n: int, x: Tensor={FILE}) -> int:\n  return n\n"
    ),
    "a constant of a class": net(attributes=f"c : Final[Tensor] = {FILE}"),
    "an argument of an argument": net(f"x = torch.add(x, torch.sum(torch.relu({FILE})))"),
    "a loop": net(f"for i in range(2):\n  y = {FILE}\n  {ADD}"),
    "a branch": net('if torch.gt(torch.dim(x), 1):\n  torch.save(x, "W")\nelse:\n  pass'),
    "a comprehension": net(f"ys = [{FILE} for i in [1, 2]]\ny = ys[0]\n{ADD}"),
    "a fork": net(f"def forked():\n  return {FILE}\nf = fork(forked)\ny = torch.wait(f)\n{ADD}"),
}
"""Ways to have a file written, each by its archive."""


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("way", WAYS)
def test_no_way_to_write_a_file_gets_past_the_check(way):
    refused = inspect(WAYS[way]).refused
    assert not Path("W").exists()
    assert "aten::from_file" in refused or "aten::save" in refused or "computes" in refused or "aten::wait" in refused
    # It is one: torch itself writes the file.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.load(io.BytesIO(WAYS[way]))(torch.ones(2, 3))
    assert Path("W").exists()


@pytest.mark.parametrize("way", ["a name with an octal escape", "__setstate__", "the default of an argument"])
def test_loading_refuses_it_in_one_sentence(way):
    Path("m.pt").write_bytes(WAYS[way])
    with pytest.raises(UserError, match=r"m\.pt is a TorchScript program that .* add --trust-pickle$"):
        load("m.pt", shape=(1, 1, 3))
    assert os.listdir() == ["m.pt"]


UNWANTED = {
    "code that torch leaves out": (net(f"y = {FILE}"), "aten::from_file"),
    "a function that nothing calls": (net(after=WRITES), "aten::from_file"),
    "printing": (net("print(1)"), "prim::Print"),
    "the seed of the process": (net("torch.manual_seed(1)"), "aten::manual_seed"),
    "another namespace": (net('y = ops.profiler._record_function_enter("x", None)'), "profiler::"),
    "another namespace by an escape": (
        net('y = getattr(getattr(ops, "pro\\146iler"), "_record_function_enter")("x", None)'),
        "profiler::",
    ),
    "a class in C++": (
        net(
            "c = __torch__.torch.classes._nnapi.Compilation.__new__(__torch__.torch.classes._nnapi.Compilation)\n"
            "_0 = (c).__init__()"
        ),
        "__torch__.torch.classes._nnapi.Compilation",
    ),
    "an object of a class in C++": (
        net(attributes="c : Any", c=instance("__torch__.torch.classes._nnapi.Compilation", a=True)),
        "names '__torch__.torch.classes._nnapi.Compilation' in data.pkl",
    ),
    "an object of its own class among the constants": (
        net(records={"constants.pkl": b"\x80\x02(" + instance("__torch__.Net", training=True) + b"t."}),
        "in constants.pkl",
    ),
    "a function of Python": (net(attributes="c : Any", c=b"cos\nsystem\n)\x81}b"), "names 'os.system'"),
    "the format for phones": (net(records={"bytecode.pkl": b"\x80\x02)."}), "'bytecode.pkl'"),
    "the format before torch 1.4": (net(records={"model.json": b"{}"}), "'model.json'"),
    "code under a name that torch finds by chance": (
        net("_0 = __torch__.more.f(x)", records={"code/__Torch__/more.py": WRITES}),
        "two records of one name|'code/__Torch__/more.py'",
    ),
    "two files of one name": (net(records={"code/__torch__/A.py": "", "code/__torch__/a.py": ""}), "two records"),
    "a comment": (net("y = 1 # torch"), "not written as"),
    "a line that goes on": (net("y = 1 + \\\n  2"), "not written as"),
    "two statements on a line": (net("y = 1; z = 2"), "not written as"),
    "letters of another alphabet": (net("y = torch.rеlu(x)"), "not written as"),
    "a string with a prefix": (net('y = getattr(torch, r"relu")(x)'), "not written as"),
    "a string over three lines": (net('y = """a"""'), "not written as"),
    "an escape code": (net('torch.warn("\\033[31mred")'), "not written as"),
    "an escape code among the objects": (
        net(attributes="s : str", s=text("\x1b[31m")),
        "control characters",
    ),
    "a statement of a file": (net(after="x = torch.relu\n"), "outside of classes and functions"),
    "a decorator": (net(after="@torch.relu\ndef f(x: Tensor) -> Tensor:\n  return x\n"), "decorator"),
}
"""What is refused although no file is written, and by which words."""


@pytest.mark.parametrize("what", UNWANTED)
def test_a_program_not_known_to_only_compute_is_refused(what):
    contents, words = UNWANTED[what]
    assert any(word in inspect(contents).refused for word in words.split("|")), inspect(contents)


BIG = """class Big(Module):
  __parameters__ = []
  __buffers__ = []
  a : float
  b : float
  c : float
  training : bool
  def run(self: __torch__.Big,
    x: Tensor) -> Tensor:
    return torch.mul(x, self.c)
class Small(Module):
  __parameters__ = []
  __buffers__ = []
  training : bool
"""
small = instance("__torch__.Small", training=True)
HALF = {"data/0": bytes(8)}  # two numbers in float32
CONFUSED = {
    "a cast": net(
        "b = unchecked_cast(__torch__.Big, self.s)\nx = (b).run(x)",
        before=BIG,
        attributes="s : __torch__.Small",
        s=small,
    ),
    "a cast to a longer tuple": net(
        "a = annotate(Any, (x,))\nb = unchecked_cast(Tuple[Tensor, Tensor], a)\nc, d, = b\nx = torch.add(c, d)"
    ),
    "an object in another's place": net("x = (self.s).run(x)", before=BIG, attributes="s : __torch__.Big", s=small),
    "an object in a list": net(
        "x = ((self.s)[0]).run(x)", before=BIG, attributes="s : List[__torch__.Big]", s=b"](" + small + b"e"
    ),
    "a number for an object": net("x = (self.s).run(x)", before=BIG, attributes="s : __torch__.Big", s=b"K\x01"),
    "a number for a tensor": net("x = torch.add(x, self.s)", attributes="s : Tensor", s=b"K\x01"),
    "a tuple that is too short": net(
        "a, b, = self.s\nx = torch.add(x, b)", attributes="s : Tuple[int, int]", s=b"K\x01\x85"
    ),
    "a list of another type": net(attributes="s : List[int]", s=b"](" + text("a") + b"e"),
    "a list with the tag of another": net(
        attributes="s : Any",
        s=b"ctorch.jit._pickle\nrestore_type_tag\n](" + text("a") + b"e" + text("List[Tensor]") + b"\x86R",
    ),
    "a state of another type": with_setstate("", state=text("a")),
    "a storage larger than its record": net(attributes="w : Tensor", w=tensor(4, 4), records=HALF),
    "a tensor larger than its storage": net(attributes="w : Tensor", w=tensor(4, 2), records=HALF),
    "a constant larger than its record": net(
        records={"constants.pkl": b"\x80\x02" + tensor(4, 4) + b"\x85.", "constants/0": bytes(8)}
    ),
}


@pytest.mark.parametrize("how", CONFUSED)
def test_a_program_that_would_read_foreign_memory_is_refused(how):
    refused = inspect(CONFUSED[how]).refused
    assert any(word in refused for word in ("unchecked", "declares", "holds less", "beyond its storage")), refused


def test_values_of_every_declared_type_are_read():
    given = {
        "w : Tensor": tensor(2, 2),
        "i : int": b"K\x01",
        "f : float": b"G" + bytes(8),
        "t : Tuple[int, str]": b"K\x01" + text("a") + b"\x86",
        "o : Optional[int]": None,
        "l : List[str]": b"](" + text("a") + b"e",
        "d : Dict[str, int]": b"}(" + text("a") + b"K\x01u",
        "n : __torch__.Pair": b"K\x01K\x02\x86",
        "s : __torch__.Small": small,
        "q : Optional[__torch__.Small]": small,
    }
    slots = {declared.partition(" ")[0]: value for declared, value in given.items()}
    pair = "class Pair(NamedTuple):\n  a : int\n  b : int\n"
    assert inspect(net(attributes="\n".join(given), before=BIG + pair, records=HALF, **slots)) == Inspection()


@pytest.mark.parametrize("record", ["data.pkl", "constants.pkl", "code/__torch__.py.debug_pkl", "version"])
@pytest.mark.parametrize("contents", [b"", b"\x80\x02.", b"\x80\x02NN.", b"\x80\x02\x30.", b"\xff" * 9, b"\x80\x02(."])
def test_a_damaged_record_is_refused_in_one_sentence(record, contents):
    result = inspect(net(records={record: contents}))
    assert result.refused or result.damaged
    assert (result.refused + result.damaged).isprintable()


def bomb():
    """An archive with a record of no size that says it unpacks to three gigabytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(net())) as plain, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
        packed.writestr(f"{plain.namelist()[0].partition('/')[0]}/constants/0", bytes(1000))
        packed.filelist[-1].file_size = 3 << 30
    return buffer.getvalue()


NEST = b"]" * 200_000 + b"a" * 199_999
DOUBLED = "def f0(x: Tensor) -> Tensor:\n  return torch.relu(x)\n" + "".join(
    f"def f{i}(x: Tensor) -> Tensor:\n  return torch.add(__torch__.f{i - 1}(x), __torch__.f{i - 1}(x))\n"
    for i in range(1, 41)
)
EXHAUSTING = {
    "a __setstate__ without end": (lambda: with_setstate("n = 0\nwhile True:\n  n = torch.add(n, 1)"), "1 seconds"),
    "functions that double forty times": (lambda: net("x = __torch__.f40(x)", after=DOUBLED), "1 seconds"),
    "a __setstate__ that fills the memory": (
        lambda: with_setstate("y = torch.sum(torch.ones([1000000, 100000]))\nself.training = bool(y)"),
        "can't allocate memory",
    ),
    "an archive that unpacks to more": (bomb, "can't allocate memory"),
    "a cast of constants that torch runs while it compiles": (
        lambda: net("a = annotate(Any, [1, 2])\nb = unchecked_cast(Tuple[int, int, int], a)\nc, d, e, = b\n"),
        "SIGSEGV",
    ),
    "objects nested two hundred thousand deep": (lambda: net(attributes="l : Any", l=NEST), "SIGSEGV"),
    "line numbers nested two hundred thousand deep": (
        lambda: net(records={"code/__torch__.py.debug_pkl": b"\x80\x02(" + NEST + b"t."}),
        "SIGSEGV",
    ),
}


@pytest.mark.processes
@pytest.mark.parametrize("what", EXHAUSTING)
def test_an_archive_that_exhausts_its_reader_exhausts_a_process_of_its_own(what, monkeypatch):
    contents, words = EXHAUSTING[what]
    if "nested" in what:  # the thread of a fork may get the stack of another one, which is larger
        monkeypatch.setattr(torchscript, "run", subprocess.run)
    # A new process takes seconds to start on a slow machine; these end by themselves, so the limit is far away.
    result = inspect_apart(contents(), seconds=30 if "nested" in what else 1)
    assert words in result.refused + result.damaged


@pytest.mark.parametrize("deep", ["(" * 9999 + "1" + ")" * 9999, "-" * 99999 + "1", "[" * 150 + "1" + "]" * 150])
def test_expressions_nested_deeply_are_refused_or_read(deep):
    result = inspect_apart(net(f"y = {deep}"))
    assert result.refused or result.damaged or deep.startswith("[")


def test_blocks_nested_deeply_are_refused():
    lines = [f"{'  ' * i}if torch.gt(torch.dim(x), {i}):" for i in range(90)]
    lines.append("  " * 90 + "x = torch.relu(x)")
    lines += [f"{'  ' * i}else:\n{'  ' * i}  x = torch.neg(x)" for i in reversed(range(90))]
    assert "blocks more than 64 deep" in inspect(net("\n".join(lines))).refused


MADE = {
    "scripted": lambda model, x: torch.jit.script(model),
    "traced": lambda model, x: torch.jit.trace(model, x, check_trace=False),
    "frozen": lambda model, x: torch.jit.freeze(torch.jit.script(model)),
}


@pytest.mark.costly
@pytest.mark.parametrize("name", PROGRAMS)
def test_ordinary_programs_are_loaded_without_consent(name):
    torch.manual_seed(0)
    model, x = PROGRAMS[name]().eval(), torch.rand(2, 1, 8, 8)
    for made in MADE.values():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made(model, x).save("m.pt")
        classifier = load("m.pt", shape=(1, 8, 8)).classifier
        with torch.no_grad():
            torch.manual_seed(1)
            expected = model(x)
            torch.manual_seed(1)
            assert torch.allclose(classifier(x), expected, atol=1e-5)


def test_a_setstate_that_only_computes_runs():
    Path("m.pt").write_bytes(with_setstate("y = torch.relu(torch.ones([2]))"))
    assert load("m.pt", shape=(1, 1, 3)).classifier.classes == 3


def test_the_loaded_program_is_the_inspected_one(monkeypatch):
    Path("m.pt").write_bytes(net())
    real = torchscript.inspect_apart

    def swap(data):
        result = real(data)
        Path("m.pt").write_bytes(WAYS["__setstate__"])
        return result

    monkeypatch.setattr(torchscript, "inspect_apart", swap)
    load("m.pt", shape=(1, 1, 3))
    assert not Path("W").exists()


CONFINED = """
import sys
from robench.problem.checkpoints.torchscript import process
print(process.give_up_network(), len(open("/proc/net/dev").readlines()) - 2)
process.confine(5, 0)
for attempt in (lambda: open("W", "w").write("a" * 99999), lambda: bytearray(8 << 30)):
    try:
        attempt()
    except (OSError, MemoryError) as error:
        print(type(error).__name__)
"""


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="other systems lend fewer limits to a process")
def test_the_process_that_checks_has_no_network_no_memory_to_spare_and_writes_nothing():
    done = subprocess.run([sys.executable, "-c", CONFINED], capture_output=True, text=True, check=True)
    network, *refused = done.stdout.splitlines()
    assert network == "True 1" or network.startswith("False")  # not every Linux lets go of it
    assert refused == ["OSError", "MemoryError"]
    assert Path("W").stat().st_size == 0


@pytest.mark.processes
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_the_process_itself_imports_nothing_from_the_current_folder_and_has_all_that_it_needs(monkeypatch):
    monkeypatch.setattr(torchscript, "run", subprocess.run)  # other tests inspect in a fork, which imported everything
    for name in ("torch", "numpy", "safetensors", "ast", "click", "sitecustomize", "robench"):
        Path(f"{name}.py").write_text('open("W", "w")\nraise SystemExit(7)\n')
    torch.jit.script(PROGRAMS["many operators"]().eval()).save("m.pt")
    assert inspect_apart(Path("m.pt").read_bytes()) == Inspection()
    assert "aten::from_file" in inspect_apart(net(TO)).refused
    assert not Path("W").exists()


def test_every_listed_operator_exists():
    known = {schema.name for schema in torch._C._jit_get_all_schemas()}
    built = {f"prim::{name}" for name in operators._PRIMITIVES.split()}
    assert sorted(o for o in operators.COMPUTING - built if o not in known and f"{o}_" not in known) == []


def test_no_listed_operator_takes_the_name_of_a_file_or_hands_out_more_than_values():
    for schema in torch._C._jit_get_all_schemas():
        if operators.computes(schema.name):
            assert not {a.name for a in schema.arguments} & {"filename", "file", "f", "fd", "url"}, schema
            kinds = {a.type.kind() for a in [*schema.arguments, *schema.returns]}
            assert not kinds & {"StorageType", "StreamObjType", "FutureType", "AwaitType", "RRefType", "ClassType"}, (
                schema
            )


@pytest.mark.parametrize(
    "name", ["from_file", "save", "manual_seed", "set_", "resize_", "fork", "backward", "chr", "wait"]
)
def test_these_are_not_listed(name):
    assert not operators.computes(f"aten::{name}")
    assert not operators.computes(f"prim::{name}")


STEADY = "BoolType ComplexType DeviceObjType FloatType IntType NoneType NumberType StringType"
PURE = """
    aten::_cufft_get_plan_cache_max_size aten::_cufft_get_plan_cache_size aten::_get_cpu_capability
    aten::_nnpack_available aten::_use_cudnn_rnn_flatten_weight aten::bin aten::center aten::chr aten::erf aten::erfc
    aten::expandtabs aten::fabs aten::gamma aten::get_autocast_dtype aten::hex aten::index aten::is_vulkan_available
    aten::isalnum aten::isdecimal aten::isidentifier aten::islower aten::isnumeric aten::isprintable aten::isspace
    aten::istitle aten::isupper aten::ljust aten::oct aten::partition aten::percentFormat aten::rindex aten::rjust
    aten::rpartition aten::swapcase aten::zfill mkldnn::_is_mkldnn_acl_supported mkldnn::_is_mkldnn_bf16_supported
    mkldnn::_is_mkldnn_fp16_supported prim::AutogradAllNonZero prim::AutogradAllZero prim::AutogradAnyNonZero
    prim::BailoutTemplate prim::IgnoredPythonOp prim::TensorExprDynamicGuard prim::TimePoint prims::maximum_value
    prims::minimum_value
    """


def test_code_that_torch_runs_while_compiling_has_no_effect():
    """It runs an operator on constants if no argument and no answer of it can change: numbers, text, tuples of them."""

    def is_steady(held):
        nested = held.kind() in ("OptionalType", "TupleType", "UnionType") and all(
            map(is_steady, held.containedTypes())
        )
        return held.kind() in STEADY.split() or nested

    schemas = torch._C._jit_get_all_schemas()
    run = {s.name for s in schemas if s.returns and all(is_steady(a.type) for a in [*s.arguments, *s.returns])}
    assert {name for name in run if not operators.computes(name)} <= set(PURE.split())
