import subprocess
import sys
from typing import Annotated

import msgspec
import pytest

from robench.errors import UserError
from robench.problem import toml


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a." * 60 + "a = 1", "has a key of more than 50 parts"),
        ("[" + "a." * 60 + "a]", "has a key of more than 50 parts"),
        ("x = {" + "a . " * 60 + "a = 1}", "has a key of more than 50 parts"),
        ('x = """a\'#"""\n' + "1." * 60 + "1 = 1", "has a key of more than 50 parts"),
        ("x = " + "[" * 5000, "is nested too deeply"),
        ("x = " + "9" * 5000, "holds a number with too many digits"),
        ("x = 'a", "is not valid TOML"),
        ("#" + "a" * toml.MAX_BYTES, "has more than"),
    ],
)
def test_a_toml_file_is_bounded_before_it_is_parsed(tmp_path, text, message):
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"x\.toml.*") as refused:
        toml.read(path)
    assert message in str(refused.value)


@pytest.mark.parametrize("dots", ["x = '" + "a." * 500 + "'", 'x = "' + "a." * 500 + '"', "#" + "a." * 500])
def test_dots_in_texts_and_comments_are_no_parts_of_keys(tmp_path, dots):
    path = tmp_path / "x.toml"
    path.write_text(f"{dots}\ny = [{', '.join(['1.5'] * 500)}]\nz.a.b = 1\n")
    assert toml.read(path)["z"] == {"a": {"b": 1}}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not count the memory of a process in this way")
def test_the_largest_file_of_dotted_keys_takes_little_memory(tmp_path):
    path = tmp_path / "x.toml"
    lines = (f"{'a.' * 49}k{n} = 1\n" for n in range(2400))
    path.write_text("".join(lines))
    assert 0.9 * toml.MAX_BYTES < path.stat().st_size < toml.MAX_BYTES
    code = f"""if True:
        import resource
        from pathlib import Path
        from robench.problem import toml
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        toml.read(Path({str(path)!r}))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 300_000  # kilobytes


class Part(msgspec.Struct, forbid_unknown_fields=True):
    share: Annotated[float, msgspec.Meta(ge=0, le=1)]


class Whole(msgspec.Struct):
    classes: int
    names: Annotated[list[Annotated[str, msgspec.Meta(min_length=2)]], msgspec.Meta(min_length=1)] | None = None
    seed: int | None = None
    parts: dict[str, Part] = {}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "`classes` is missing"),
        ({"classes": "3"}, "`classes` must be a whole number, and is a text"),
        ({"classes": True}, "`classes` must be a whole number, and is true or false"),
        ({"classes": 3, "seed": 1.5}, "`seed` must be a whole number, and is a number"),
        ({"classes": 3, "names": "a"}, "`names` must be a list, and is a text"),
        ({"classes": 3, "names": []}, "`names` must be a list of at least 1 value"),
        ({"classes": 3, "names": ["a"]}, "`names[0]` must be a text of at least 2 characters"),
        ({"classes": 3, "parts": 1}, "`parts` must be a table, and is a whole number"),
        ({"classes": 3, "parts": {"a": {}}}, "`share` is missing in `parts[...]`"),
        ({"classes": 3, "parts": {"a": {"share": 2.0}}}, "`parts[...].share` must be a number of at most 1.0"),
        ({"classes": 3, "parts": {"a": {"x": 2}}}, "object contains unknown field `x` - at `parts[...]`"),
    ],
)
def test_a_wrong_value_is_named_in_the_words_of_toml(table, message):
    assert toml.converted({"classes": 3}, Whole) == Whole(3)
    with pytest.raises(UserError) as caught:
        toml.converted(table, Whole)
    assert str(caught.value) == message
