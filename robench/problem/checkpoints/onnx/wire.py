"""Counts the parts of a protobuf message before it is parsed: a part of two bytes may take a hundred when parsed."""

from typing import Any

PARTS = 500_000  # more than the graph of any classifier has
LARGEST = 2**31 - 1  # bytes that protobuf reads

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5  # kinds of fields, by the lowest three bits of their tags


def too_many_parts(data: bytes, descriptor: Any) -> bool:
    """Whether a message of this descriptor has more than `PARTS` fields, those of inner messages included.

    Counting ends where the bytes are no protobuf, which the parser reports.
    """
    parts = 0
    kinds: dict[str, dict[int, Any]] = {}
    waiting = [(0, len(data), descriptor)]
    while waiting:
        at, end, kind = waiting.pop()
        inner = kinds.get(kind.full_name)
        if inner is None:
            inner = {field.number: field.message_type for field in kind.fields if field.message_type is not None}
            kinds[kind.full_name] = inner
        while at < end:
            parts += 1
            if parts > PARTS:
                return True
            tag, at = _varint(data, at, end)
            length = 0
            if tag & 7 == _VARINT:
                _, at = _varint(data, at, end)
            elif tag & 7 == _LENGTH:
                length, at = _varint(data, at, end)
                if tag >> 3 in inner:
                    waiting.append((at, min(at + length, end), inner[tag >> 3]))
            elif tag & 7 in (_EIGHT_BYTES, _FOUR_BYTES):
                length = 8 if tag & 7 == _EIGHT_BYTES else 4
            at += length
    return False


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The number that begins at a byte, of at most ten bytes, and the place behind it; 0 at the end."""
    if at >= end:
        return 0, end
    if data[at] < 128:
        return data[at], at + 1
    value = 0
    for i, byte in enumerate(data[at : min(at + 10, end)]):
        value |= (byte & 127) << (7 * i)
        if byte < 128:
            return value, at + i + 1
    return value, end
