"""Words, docstrings and imports of the package stay as `python -m tests.structure` measured them after the redesign."""

import fnmatch

import pytest

from . import structure
from .structure import ROOT, Graph, Vocabulary

MAX_FILE, MAX_FUNCTION, MAX_LAYERS = 410, 75, 9


@pytest.fixture
def checkout(tmp_path):
    """A checkout with one module of this source."""

    def write(source, name="module"):
        (tmp_path / "robench").mkdir(exist_ok=True)
        (tmp_path / "robench" / f"{name}.py").write_text(source)
        return tmp_path

    return write


@pytest.fixture(scope="module")
def all_uses():
    """Every use of a word of the list, exceptions too."""
    vocabulary = Vocabulary.read()
    return list(structure.uses(ROOT, Vocabulary(vocabulary.identifiers, vocabulary.prose, allowed=())))


@pytest.mark.costly
def test_no_word_of_the_list_is_left(all_uses):
    vocabulary = Vocabulary.read()
    assert [str(use) for use in all_uses if not vocabulary.allows(use.place)] == []


@pytest.mark.costly
def test_every_exception_is_needed_and_has_a_reason(all_uses):
    places = [use.place for use in all_uses]
    for pattern, reason in Vocabulary.read().allowed:
        assert reason, pattern
        assert any(fnmatch.fnmatchcase(place, pattern) for place in places), f"nothing needs the exception {pattern}"


@pytest.mark.costly
def test_every_docstring_is_a_sentence_or_a_noun_phrase():
    assert list(structure.fragments(ROOT)) == []


@pytest.mark.costly
def test_no_modules_import_each_other_in_a_circle():
    assert structure.imports(ROOT).cycles() == []


@pytest.mark.costly
def test_layers_files_and_functions_stay_small():
    assert structure.packages(structure.imports(ROOT)).layers() <= MAX_LAYERS
    assert structure.longest_file(ROOT)[0] <= MAX_FILE
    assert structure.longest_function(ROOT)[0] <= MAX_FUNCTION


@pytest.mark.parametrize(
    ("source", "kind", "word"),
    [
        ("def next_look():\n    pass\n", "identifier", "look"),
        ("class CrewOfTen:\n    pass\n", "identifier", "crew"),
        ("x = 1  # nobody knows\n", "comment", "nobody"),
        ("def f():\n    '''Tells the attack.'''\n", "docstring", "tells"),
        ("print(f'the model was asked {1} times')\n", "text", "asked"),
    ],
)
def test_a_word_of_the_list_is_found(checkout, source, kind, word):
    (use,) = structure.uses(checkout(source), Vocabulary.read())
    assert (use.kind, use.word) == (kind, word)


def test_keys_and_code_in_backticks_are_no_sentences(checkout):
    assert list(structure.uses(checkout("x = {'told': 1}  # `ask` is a column\n"), Vocabulary.read())) == []


@pytest.mark.parametrize("text", ["Of the next ball.", "The same, by row.", "Gives the number of rows"])
def test_a_fragment_is_found(checkout, text):
    assert len(list(structure.fragments(checkout(f'def f():\n    """{text}"""\n')))) == 1


def test_a_circle_of_imports_is_found(checkout):
    root = checkout("from . import second\n", "first")
    checkout("def late():\n    from .first import x\n", "second")
    assert structure.imports(root).cycles() == [["robench.first", "robench.second"]]


def test_layers_are_the_longest_chain():
    assert Graph({"a": {"b", "c"}, "b": {"c"}, "c": set(), "d": set()}).layers() == 3
