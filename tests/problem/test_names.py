import pytest

from robench.errors import UserError
from robench.problem.names import as_file_name, check

PATHS = ["../../x", "/etc/x", "..", ".hidden", "C:\\x", "a/b", "a:b"]
UNSHOWN = ["", "a" * 300, "a\0b", "a\nb", "\x1b[31mred", "a\u202eb", "a\u2028b"]


@pytest.mark.parametrize("name", PATHS + UNSHOWN)
def test_what_could_be_a_path_or_cannot_be_shown_is_no_name(name):
    with pytest.raises(UserError) as error:
        check(name, "the card c.toml calls its model")
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("name", ["digits-adv-linf", "resnet18 (seed 3), half", "modèle_1.0+", "模型"])
def test_other_names_are_names_and_keep_their_files(name):
    assert check(name, "") == as_file_name(name) == name


@pytest.mark.parametrize("name", PATHS + UNSHOWN)
def test_every_text_makes_the_name_of_one_file_in_the_same_folder(tmp_path, name):
    path = tmp_path / f"{as_file_name(name)}-1a2b3c4d.robench"
    path.touch()
    assert path.resolve().parent == tmp_path.resolve()
    assert path.name.isprintable()
