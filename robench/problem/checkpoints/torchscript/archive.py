"""Reads the records of a TorchScript archive with torch's own reader, so that the loaded code is the checked code."""

import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .inspection import Damaged, Refused

RECORDS = re.compile(
    r"data\.pkl | constants\.pkl | (data|constants)/[\w.-]+ | code/__torch__(/\w+)*\.py(\.debug_pkl)?"
    r"| version | byteorder | \.data/(version|serialization_id) | \.format_version | \.storage_alignment"
    r"| extra/.* | traced_inputs(\.pkl|/[\w.-]+)",  # the records in this line are not read
    re.ASCII | re.VERBOSE,
)
"""The records that `torch.jit.save` writes. They exclude `bytecode.pkl` and `model.json`, which other loaders read."""
PROBE = "__torch__.robench_probe"


@dataclass(frozen=True)
class Archive:
    """The records of an archive."""

    code: Mapping[str, bytes]  # source by module name, such as `__torch__.net`
    needed: Mapping[str, bytes]  # the records that compiling the code needs
    pickles: Mapping[str, bytes]  # data.pkl and constants.pkl
    sizes: Mapping[str, int]  # bytes of the other records

    @classmethod
    def read(cls, data: bytes) -> "Archive":
        """The archive in these bytes. Raises Refused for an unknown record, Damaged for a truncated file."""
        try:
            reader: Any = torch._C.PyTorchFileReader(io.BytesIO(data))
            names: list[str] = reader.get_all_records()
        except RuntimeError as error:
            raise Damaged(reason(error)) from None
        for name in names:
            if not RECORDS.fullmatch(name):
                raise Refused(f"holds {name!r}, which torch.jit.save does not write")
        if len({name.lower() for name in names}) < len(names):  # torch ignores case
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
        """An archive that compiles these classes and functions when it is loaded, and creates an empty object.

        It contains no object of the file, so no `__setstate__` runs.
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
    """Whether text has no control characters except tabs and line breaks, so that a terminal shows all of it."""
    return all(character.isprintable() or character in "\t\n" for character in text)


def reason(error: BaseException) -> str:
    """The most informative line of an error of torch."""
    lines = [line.strip().rstrip(":") for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # TorchScript gives the reason at the end of its traceback, other errors at the beginning.
    return shortened(lines[-1] if "TorchScript interpreter" in lines[0] else lines[0])


def shortened(text: str, limit: int = 200) -> str:
    """The text, without its middle if it is longer than `limit`: names in an archive may have any length."""
    return text if len(text) <= limit else f"{text[: limit // 2]} ... {text[-limit // 2 :]}"
