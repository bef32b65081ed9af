"""Interprets a pickle of a TorchScript archive without creating the objects in it.

torch reads these pickles with a reader of its own, which trusts them: the size of a storage, the class of an object.
Here they are interpreted by the rules of that reader, with types in place of values. Anything that `torch.jit.save`
does not write is refused.
"""

import pickletools
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from .archive import is_plain, shortened
from .inspection import Refused

ITEM_BYTES = {
    **dict.fromkeys(("BoolStorage", "ByteStorage", "CharStorage"), 1),
    **dict.fromkeys(("BFloat16Storage", "HalfStorage", "ShortStorage"), 2),
    **dict.fromkeys(("FloatStorage", "IntStorage"), 4),
    **dict.fromkeys(("ComplexFloatStorage", "DoubleStorage", "LongStorage"), 8),
}
"""The storage types that an archive may use, by torch's names, with the bytes of an element."""
LISTS = {"build_boollist": "bool", "build_doublelist": "float", "build_intlist": "int", "build_tensorlist": "Tensor"}


@dataclass(frozen=True)
class Plain:
    """A value of a type without parts. `kind` is its TorchScript type; `value` is set for integers and text."""

    kind: str
    value: Any = None


@dataclass(eq=False)
class Sequence:
    """A List or a Tuple, by `kind`."""

    kind: str
    items: list[Any]


@dataclass(eq=False)
class Table:
    """A Dict."""

    pairs: list[tuple[Any, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Named:
    """A class or function, by its full name."""

    name: str


@dataclass(eq=False)
class Made:
    """An object of a class in the archive with its `state`, or the member of an enumeration with this value."""

    name: str
    state: Any


@dataclass(frozen=True)
class Storage:
    """Memory for `items` elements."""

    items: int


class Pickle:
    """A pickle that has been interpreted to its end.

    `objects` are those it creates; `tagged` are the values with a type tag, and the text of the tag. `sizes` are the
    bytes of the records of tensors. Raises Refused for anything that torch does not write.
    """

    def __init__(self, record: str, data: bytes, sizes: Mapping[str, int], classes: Collection[str]):
        self.record, self.sizes, self.classes = record, sizes, classes
        self.objects: list[Made] = []
        self.tagged: list[tuple[Any, str]] = []
        self._stack: list[Any] = []
        self._marks: list[int] = []  # the length of the stack at each mark
        self._memo: dict[int, Any] = {}
        try:
            for code, argument, _ in pickletools.genops(data):
                self._step(code.name, argument)
            (self.root,) = self._stack
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            raise Refused(f"holds data in {record} that torch.jit.save does not write") from None

    def _step(self, code: str, argument: Any) -> None:
        if code in ("PROTO", "STOP"):
            return
        if code == "MARK":
            self._marks.append(len(self._stack))
        elif code in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._stack[-1]
        elif code in ("BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[argument])
        elif code in PUSHED:
            self._stack.append(PUSHED[code](argument))
        elif code == "GLOBAL":
            self._stack.append(self._named(argument.replace(" ", ".")))
        elif code in ("BINUNICODE", "BINUNICODE8"):
            if not is_plain(argument):
                raise Refused(f"holds control characters in {self.record}")
            self._stack.append(Plain("str", argument))
        elif code == "TUPLE":
            self._stack.append(Sequence("Tuple", self._marked()))
        elif code in ("TUPLE1", "TUPLE2", "TUPLE3"):
            self._stack.append(Sequence("Tuple", [self._stack.pop() for _ in range(int(code[-1]))][::-1]))
        elif code in ("APPEND", "APPENDS"):
            added = self._marked() if code == "APPENDS" else [self._stack.pop()]
            _of(self._stack[-1], "List").extend(added)
        elif code in ("SETITEM", "SETITEMS"):
            added = self._marked() if code == "SETITEMS" else [self._stack.pop() for _ in range(2)][::-1]
            self._stack[-1].pairs.extend(zip(added[::2], added[1::2], strict=True))
        elif code == "BINPERSID":
            self._stack.append(self._storage(*_of(self._stack.pop(), "Tuple")))
        elif code == "NEWOBJ":
            if _of(self._stack.pop(), "Tuple"):
                raise ValueError("an object is made without arguments")
        elif code == "BUILD":
            state, made = self._stack.pop(), self._stack.pop()
            self._stack.append(self._made(made.name, state))
        elif code == "REDUCE":
            arguments, called = self._stack.pop(), self._stack.pop()
            self._stack.append(self._called(called.name, arguments))
        else:
            raise ValueError(code)

    def _marked(self) -> list[Any]:
        """Pops and returns the items since the last mark, and removes the mark."""
        begin = self._marks.pop()
        if begin > len(self._stack):
            raise ValueError("more is taken than was pushed")
        marked = self._stack[begin:]
        del self._stack[begin:]
        return marked

    def _named(self, name: str) -> Named:
        module, _, last = name.rpartition(".")
        known = module == "torch" and last in (*ITEM_BYTES, "device")
        if not (known or name in FUNCTIONS or name in self.classes):
            short = shortened(name)
            raise Refused(f"names {short!r} in {self.record}, which is neither a tensor nor a class of the archive")
        return Named(name)

    def _made(self, name: str, state: Any) -> Made:
        if name not in self.classes:
            raise ValueError(f"{name} is no class")
        self.objects.append(Made(name, state))
        return self.objects[-1]

    def _called(self, name: str, arguments: Any) -> Any:
        if name in self.classes:  # an enumeration; `objects` checks it with the other objects
            return self._made(name, arguments)
        function = name.rpartition(".")[2]
        items = _of(arguments, "Tuple")
        if function == "_rebuild_tensor_v2":
            return _tensor(*items[:4])
        if function == "OrderedDict":
            return Table()
        if function == "restore_type_tag":
            value, tag = items
            self.tagged.append((value, _value(tag, "str")))
            return value
        if function in LISTS:
            (value,) = items
            self.tagged.append((value, f"List[{LISTS[function]}]"))
            return value
        return Plain({"device": "Device", "complex": "complex"}[function])

    def _storage(self, word: Any, kind: Named, key: Plain, device: Plain, items: Plain) -> Storage:
        """The storage. Raises Refused if it is larger than its record, because torch would read past the end."""
        folder, count = self.record.removesuffix(".pkl"), _value(items, "int")
        if _value(word, "str") != "storage" or not re.fullmatch(r"(cpu|cuda|mps)(:\d+)?", _value(device, "str")):
            raise ValueError("another kind of storage")
        size = ITEM_BYTES[kind.name.removeprefix("torch.")]
        if not 0 <= count * size <= self.sizes[f"{folder}/{_value(key, 'str')}"]:
            raise Refused(f"holds less in {folder}/{key.value} than {self.record} says")
        return Storage(count)


PUSHED: dict[str, Callable[[Any], Any]] = {
    "EMPTY_LIST": lambda _: Sequence("List", []),
    "EMPTY_TUPLE": lambda _: Sequence("Tuple", []),
    "EMPTY_DICT": lambda _: Table(),
    "NONE": lambda _: Plain("NoneType"),
    "NEWTRUE": lambda _: Plain("bool"),
    "NEWFALSE": lambda _: Plain("bool"),
    "BINFLOAT": lambda _: Plain("float"),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1"), lambda number: Plain("int", number)),
}
FUNCTIONS = frozenset(
    ["torch._utils._rebuild_tensor_v2", "collections.OrderedDict", "builtins.complex"]
    + [f"torch.jit._pickle.{name}" for name in ("restore_type_tag", *LISTS)]
)


def _tensor(storage: Storage, offset: Plain, size: Sequence, stride: Sequence) -> Plain:
    """A tensor over a storage. Raises Refused if it reaches beyond the storage."""
    lengths, steps = ([_value(n, "int") for n in _of(numbers, "Tuple")] for numbers in (size, stride))
    begin = _value(offset, "int")
    if min([begin, *lengths, *steps]) < 0 or len(lengths) != len(steps):
        raise ValueError("no tensor")
    reach = begin + sum((n - 1) * step for n, step in zip(lengths, steps, strict=True)) + 1
    if 0 not in lengths and reach > storage.items:
        raise Refused("holds a tensor that reaches beyond its storage")
    return Plain("Tensor")


def _of(value: Any, kind: str) -> list[Any]:
    """The items of a List or a Tuple. Raises ValueError for anything else."""
    if not isinstance(value, Sequence) or value.kind != kind:
        raise ValueError(f"no {kind}")
    return value.items


def _value(value: Any, kind: str) -> Any:
    if not isinstance(value, Plain) or value.kind != kind:
        raise ValueError(f"no {kind}")
    return value.value
