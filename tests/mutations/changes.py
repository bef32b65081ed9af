"""Random changes of bytes, and of nested values as JSON and TOML hold them."""

import copy
import json
import math
from random import Random

LONG = "a" * 300
STRANGE = [
    *(None, True, False, 0, -1, 1, 2, 255, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30, 10**400),
    *(0.0, -0.0, 0.5, 5e-324, 1e-30, 1e16, 1e300, -1e300, math.inf, -math.inf, math.nan),
    *("", " ", "x", "0", "1", "nan", "\n", "\0", "\x1b[2J", "\x7f", "é", "\u202e", "\U0001f600", LONG, "b" * 20_000),
    *("../../x", "/etc/passwd", "x.py:f", "os:system", "=1+1", "**[x](https://x)**", "<script>", "%s{0}", "a,b;c"),
    *("linf:1e999999999", "linf:0.3", "l2:-1", "pgd(steps=1e9)", "999999999:0", "0:999999999", "random:9", "1/0"),
    *([], {}, [0], ["x"], {"x": 1}, [[]], [None]),
]
TEXTS = [s for s in STRANGE if isinstance(s, str)]


def changed_bytes(held: bytes, random: Random) -> bytes:
    """The bytes with one to eight changes."""
    data = bytearray(held)
    for _ in range(random.choice([1, 1, 1, 2, 4, 8])):
        place, length = random.randrange(len(data) + 1), random.choice([1, 1, 2, 4, 16, 100])
        match random.randrange(8):
            case 0 if place < len(data):
                data[place] ^= 1 << random.randrange(8)
            case 1:
                data[place : place + length] = random.randbytes(length)
            case 2:
                del data[place : place + length]
            case 3:
                data[place:place] = random.randbytes(length)
            case 4:
                start = random.randrange(len(data) + 1)
                data[place : place + length] = data[start : start + length]
            case 5:
                del data[place:]
            case 6:
                data[place : place + length] = bytes(length)
            case _:
                data[place:place] = random.choice([b"\xff", b"\0", b"\xc3", b"\xef\xbb\xbf", b"[" * 3000, b"9" * 500])
    return bytes(data)


def changed(value: object, random: Random) -> object:
    """A copy of the nested value with one to three changes of its values or its structure."""
    value = copy.deepcopy(value)
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        places = list(_places(value))
        if not places:
            return random.choice(STRANGE)
        holder, key = random.choice(places)
        if random.random() < 0.6:
            holder[key] = changed_value(holder[key], random)
        else:
            _restructure(holder, key, places, random)
    return value


def changed_value(value: object, random: Random) -> object:
    """Another value in this place: near it, or strange."""
    if random.random() < 0.5:
        return copy.deepcopy(random.choice(STRANGE))
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        near = [-value, value + 1, value - 1, value * 10, value * 10**6, value / 3 if math.isfinite(value) else 0]
        return random.choice([*near, float(value), str(value), [value]])
    if isinstance(value, str):
        return changed_text(value, random)
    if isinstance(value, list):
        return random.choice([value * 2, value[::-1], value[:1], value * 300 if len(value) < 50 else [], None])
    return random.choice([[value], None, "x", 1])


def changed_text(text: str, random: Random) -> str:
    """The text with one to three changes."""
    for _ in range(random.choice([1, 1, 2, 3])):
        place = random.randrange(len(text) + 1)
        match random.randrange(6):
            case 0:
                text = text[:place] + random.choice(TEXTS) + text[place:]
            case 1:
                text = text[:place] + text[place + random.choice([1, 2, 5]) :]
            case 2:
                text = text[:place] + random.choice("0123456789-+.eE/:,()=[]{}'\"\\ \t#%*_@") + text[place:]
            case 3:
                text = text[:place] + random.choice(["9" * 30, "0" * 400, "1e999", "-1", "nan", "inf", "1e-400"])
            case 4:
                text = text + text[place:]
            case _:
                text = text[:place] + text[place : place + 3] * random.choice([2, 3, 200]) + text[place + 3 :]
    return text


def _places(value: object):
    """Every place in a nested value, as the list or table and the key in it."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def _restructure(holder, key, places, random: Random) -> None:
    other, other_key = random.choice(places)
    match random.randrange(7):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        case 1 | 2:
            holder[key] = copy.deepcopy(other[other_key])
        case 3 if isinstance(holder, dict):
            holder[random.choice(["x", "", "name", "threat", LONG, "\x1b[2J"])] = holder.pop(key)
        case 4:
            holder[key] = [holder[key]]
        case 5:
            for _ in range(random.choice([2, 50, 200])):
                holder[key] = [holder[key]]
        case _:
            holder[key] = copy.deepcopy(random.choice(STRANGE))


def as_json(value: object) -> bytes:
    """JSON, with NaN and infinite numbers as Python writes them."""
    return json.dumps(value).encode()


def as_toml(table: object) -> bytes:
    """TOML on one line per entry. What TOML cannot hold is written all the same, and is no TOML then."""
    if not isinstance(table, dict):
        return _toml(table).encode(errors="surrogatepass")
    return "".join(f"{_key(key)} = {_toml(value)}\n" for key, value in table.items()).encode(errors="surrogatepass")


def _key(text: object) -> str:
    return json.dumps(str(text))


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_toml(held)}" for key, held in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=isinstance(value, bool))
    return repr(value)
