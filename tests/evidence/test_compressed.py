"""Compressed run files: the same evidence, read only, and refused where their content does not fit a run file."""

import gzip
import lzma
import sys

import pytest
from click.testing import CliRunner

from robench.cli.main import robench
from robench.errors import UserError
from robench.evidence import compressed
from robench.evidence.compressed import RATIO, compress
from robench.evidence.store import RunFile, is_run_file

from .records import SHAPE, beside


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def everything(path):
    with RunFile.read(path) as run:
        return repr((run.plan(), run.evidence()))


def refusal(action, *arguments):
    """The one sentence."""
    with pytest.raises(UserError) as error:
        action(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_compressed_file_holds_the_same_in_less_space_and_leaves_no_copy(path, temporary):
    whole, size = everything(path), path.stat().st_size
    compress(path)
    assert path.stat().st_size < size / 2
    before = beside(path)
    assert is_run_file(path)
    assert everything(path) == whole
    assert beside(path) == before
    assert not any(temporary.iterdir())


def test_equal_content_gives_equal_bytes(path, tmp_path):
    other = tmp_path / "other.robench"
    other.write_bytes(path.read_bytes())
    for file in (path, other):
        compress(file)
    assert path.read_bytes() == other.read_bytes()


def test_images_come_out_of_a_compressed_file(path):
    def stored():
        with RunFile.read(path) as run:
            return [(claim, image.tobytes()) for claim, image in run.images(SHAPE)]

    whole = stored()
    compress(path)
    assert stored() == whole != []


def test_nothing_is_added_to_a_compressed_file_and_the_refusal_says_how_to_expand_it(path, tmp_path):
    whole = everything(path)
    compress(path)
    before = beside(path)
    text = refusal(RunFile.open, path)
    expanded = tmp_path / "expanded-r.robench"
    assert f"robench merge {path} --out {expanded}" in text
    assert beside(path) == before
    made = CliRunner().invoke(robench, ["merge", str(path), "--out", str(expanded)], standalone_mode=False)
    assert made.exception is None
    with RunFile.open(expanded):
        pass
    assert len(everything(expanded)) > len(whole) / 2


def test_merge_compresses_on_demand(path, tmp_path):
    plain, small = tmp_path / "plain.robench", tmp_path / "small.robench"
    for out, words in ((plain, []), (small, ["--compress"])):
        made = CliRunner().invoke(
            robench, ["merge", str(path), "--slim", *words, "--out", str(out)], standalone_mode=False
        )
        assert made.exception is None
    assert compressed.is_compressed(small.read_bytes())
    assert lzma.decompress(small.read_bytes()) == plain.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plain.robench", "r.robench", "small.robench"]
    tables = [CliRunner().invoke(robench, ["report", str(out)], standalone_mode=False).output for out in (plain, small)]
    assert tables[0] == tables[1] != ""


@pytest.mark.parametrize("packed", [gzip.compress, lzma.compress])
def test_a_file_that_expands_without_end_is_refused_early(path, temporary, monkeypatch, packed):
    monkeypatch.setattr(compressed, "_CHUNK", 2**12)
    content = packed(path.read_bytes() + bytes(2**24))
    path.write_bytes(content)
    assert f"{path} expands to more than {RATIO * len(content):,} bytes" in refusal(RunFile.read, path)
    assert not any(temporary.iterdir())


def test_the_largest_expanded_size_holds_for_large_files_too(path, monkeypatch):
    compress(path)
    monkeypatch.setattr(compressed, "LARGEST", 1000)
    assert "expands to more than 1,000 bytes" in refusal(RunFile.read, path)


@pytest.mark.parametrize("packed", [gzip.compress, lzma.compress])
@pytest.mark.parametrize("damage", ["cut", "flipped", "header only", "other content", "nothing", "twice", "followed"])
def test_a_damaged_compressed_file_is_refused_in_one_sentence(path, damage, packed):
    whole = packed(path.read_bytes())
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    path.write_bytes({
        "cut": whole[:middle],
        "flipped": flipped,
        "header only": whole[:10],
        "other content": packed(b"hello"),
        "nothing": packed(b""),
        "twice": packed(whole),
        "followed": whole + b"more",
    }[damage])  # fmt: skip
    before = path.read_bytes()
    text = refusal(RunFile.read, path)
    assert str(path) in text
    assert "damaged" in text or "is not a robench run file" in text
    assert path.read_bytes() == before


def test_the_content_is_held_to_the_same_layout(path):
    path.write_bytes(lzma.compress(path.read_bytes().replace(b"CREATE TABLE clean", b"CREATE TABLE cleam")))
    assert "not laid out" in refusal(RunFile.read, path) or "damaged" in refusal(RunFile.read, path)


def test_compression_is_what_xz_reads(path):
    plain = path.read_bytes()
    compress(path)
    assert lzma.decompress(path.read_bytes(), lzma.FORMAT_XZ) == plain


def test_a_file_that_gzip_compressed_is_read_like_one_of_an_earlier_version(path):
    whole = everything(path)
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert is_run_file(path)
    assert everything(path) == whole
    assert f"{path} is compressed" in refusal(RunFile.open, path)


def test_a_dictionary_that_needs_much_memory_is_refused(path, temporary):
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 2 * compressed.MEMORY}]
    path.write_bytes(lzma.compress(path.read_bytes(), filters=filters))
    assert f"needs more than {compressed.MEMORY:,} bytes of memory" in refusal(RunFile.read, path)
    assert not any(temporary.iterdir())


def test_what_could_not_be_read_again_is_not_compressed(path, monkeypatch):
    monkeypatch.setattr(compressed, "LARGEST", 1000)
    before = path.read_bytes()
    assert "leave --compress out" in refusal(compress, path)
    assert path.read_bytes() == before


def test_a_python_without_xz_says_so(path, monkeypatch):
    compress(path)
    monkeypatch.setitem(sys.modules, "lzma", None)
    assert f"{path} cannot be expanded: this Python was built without xz" in refusal(RunFile.read, path)
    assert "leave --compress out" in refusal(compress, path)
