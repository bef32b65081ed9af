"""The records of a TorchScript archive, read with torch's own reader, so that what is checked is what is loaded."""

import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .verdict import Damaged, Refused

RECORDS = re.compile(
    r"data\.pkl | constants\.pkl | (data|constants)/[\w.-]+ | code/__torch__(/\w+)*\.py(\.debug_pkl)?"
    r"| version | byteorder | \.data/(version|serialization_id) | \.format_version | \.storage_alignment"
    r"| extra/.* | traced_inputs(\.pkl|/[\w.-]+)",  # these are not read
    re.ASCII | re.VERBOSE,
)
"""What `torch.jit.save` writes. `bytecode.pkl` and `model.json`, of other loaders, are not among it."""
PROBE = "__torch__.robench_probe"


@dataclass(frozen=True)
class Archive:
    """Its code by module name (`__torch__.net`), and the records that compiling it needs; both are bytes."""

    code: Mapping[str, bytes]
    needed: Mapping[str, bytes]
    pickles: Mapping[str, bytes]  # data.pkl and constants.pkl
    sizes: Mapping[str, int]  # bytes of the other records

    @classmethod
    def read(cls, data: bytes) -> "Archive":
        """Raises Refused for a record that is not known, Damaged for a file that is cut off."""
        try:
            reader: Any = torch._C.PyTorchFileReader(io.BytesIO(data))
            names: list[str] = reader.get_all_records()
        except RuntimeError as error:
            raise Damaged(reason(error)) from None
        for name in names:
            if not RECORDS.fullmatch(name):
                raise Refused(f"holds {name!r}, which torch.jit.save does not write")
        if len({name.lower() for name in names}) < len(names):  # torch does not tell upper case from lower
            raise Refused("holds two records of one name")
        try:
            code = {name: reader.get_record(name) for name in names if name.endswith(".py")}
            fixed = {name: reader.get_record(name) for name in names if name in ("version", ".data/version")}
            constants = {name: reader.get_record(name) for name in names if name.startswith("constants")}
            pickles = {name: reader.get_record(name) for name in ("data.pkl", "constants.pkl")}
            sizes = {name: len(reader.get_record(name)) for name in names if "/" in name}
        except RuntimeError as error:
            raise Damaged(reason(error)) from None
        modules = {name[len("code/") : -len(".py")].replace("/", "."): text for name, text in code.items()}
        return cls(modules, {**code, **fixed, **constants}, pickles, sizes)

    def without_objects(self, classes: Iterable[str], functions: Iterable[str]) -> bytes:
        """An archive that compiles these classes and functions when it is loaded, and makes an empty object.

        No object of the file is in it, so no `__setstate__` runs.
        """
        if any(name.startswith(PROBE) for name in self.code):
            raise Refused(f"holds a module called {PROBE}")
        typed = "".join(f",\n    a{i}: {name}" for i, name in enumerate(classes))
        named = "".join(f"    f{i} = {name}\n" for i, name in enumerate(functions))
        probe = f"class Probe(Module):\n  def probe(self{typed}) -> int:\n{named}    return 0\n"
        buffer = io.BytesIO()
        writer: Any = torch._C.PyTorchFileWriter(buffer)
        records = {**self.needed, f"code/{PROBE.replace('.', '/')}.py": probe.encode()}
        records["data.pkl"] = f"\x80\x02c{PROBE}\nProbe\n)\x81}}b.".encode("latin-1")
        for name, content in records.items():
            writer.write_record(name, content, len(content))
        writer.write_end_of_file()
        return buffer.getvalue()


def is_plain(text: str) -> bool:
    """Whether text shows on a terminal as it is: no control characters but tabs and line breaks."""
    return all(character.isprintable() or character in "\t\n" for character in text)


def reason(error: BaseException) -> str:
    """The one line of an error of torch that says most."""
    lines = [line.strip().rstrip(":") for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # TorchScript says what happened at the end of its traceback, others at the beginning.
    return shortened(lines[-1] if "TorchScript interpreter" in lines[0] else lines[0])


def shortened(text: str, most: int = 200) -> str:
    """The text without its middle, where it is long: names in an archive may be of any length."""
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"
