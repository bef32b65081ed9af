import pytest

from robench.errors import UserError
from robench.problem.names import as_file_name, check

PATHS = ["../../x", "/etc/x", "..", ".hidden", "C:\\x", "a/b", "a:b"]
UNSHOWN = ["", "a" * 300, "a\0b", "a\nb", "\x1b[31mred", "a\u202eb", "a\u2028b"]


@pytest.mark.parametrize("name", PATHS + UNSHOWN)
def test_a_path_or_unprintable_text_is_not_a_name(name):
    with pytest.raises(UserError) as error:
        check(name, "the card c.toml calls its model")
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("name", ["digits-adv-linf", "resnet18 (seed 3), half", "modèle_1.0+", "模型"])
def test_other_names_are_names_and_keep_their_files(name):
    assert check(name, "") == as_file_name(name) == name


@pytest.mark.parametrize("name", PATHS + UNSHOWN)
def test_every_text_becomes_a_file_name_without_folders(tmp_path, name):
    path = tmp_path / f"{as_file_name(name)}-1a2b3c4d.robench"
    path.touch()
    assert path.resolve().parent == tmp_path.resolve()
    assert path.name.isprintable()
