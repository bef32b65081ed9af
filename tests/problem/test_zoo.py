"""Bundled models: where their weights are found, and the error when they are nowhere."""

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from robench.errors import UserError
from robench.problem.checkpoints import locate, zoo
from robench.problem.checkpoints.cards import Card, read_card, write_card

from .serving import PAGE, left_in

CONTENT = bytes(range(256)) * 1000
OTHER = CONTENT[:-1] + b"\0"
NAME = "toy-nat"
FILE = f"{NAME}.safetensors"
COMMAND = "robench train nat --data digits --out toy-nat"


@pytest.fixture
def zoo_folder(tmp_path, monkeypatch) -> Path:
    """A zoo of one card without weights; the working folder `work/below` and the cache `cache` are empty."""
    folder = tmp_path / "package" / "model_zoo"
    folder.mkdir(parents=True)
    (tmp_path / "work" / "below").mkdir(parents=True)
    monkeypatch.setattr(zoo, "zoo_folder", lambda: folder)
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache")
    monkeypatch.chdir(tmp_path / "work" / "below")
    monkeypatch.delenv(zoo.VARIABLE, raising=False)
    write_card(folder / f"{NAME}.toml", card())
    return folder


def card(**fields) -> Card:
    return Card(
        **{"name": NAME, "data": "digits", "architecture": "digits-cnn", "shape": (1, 28, 28), "classes": 10}
        | {"weights": FILE, "sha256": hashlib.sha256(CONTENT).hexdigest(), "command": COMMAND}
        | fields
    )


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def refusal(checkpoint: str | Path = NAME) -> str:
    with pytest.raises(UserError) as caught:
        locate(checkpoint)
    message = str(caught.value)
    assert "\n" not in message
    return message


def all_ways_out_are_in(message: str) -> bool:
    return all(
        way in message
        for way in (
            f"set ROBENCH_ZOO to a folder or an http(s) address that has {FILE}",
            "run robench in a source checkout whose model_zoo/ has it",
            f"or train the model and name the file that this writes: {COMMAND}",
        )
    )


def places(tmp_path, zoo_folder) -> list[Path]:
    """Every folder in which the weights may lie, in order."""
    return [
        zoo_folder,
        tmp_path / "work" / "below" / "model_zoo",
        tmp_path / "work" / "model_zoo",
        tmp_path / "model_zoo",
        tmp_path / "cache" / "model_zoo",
        tmp_path / "mine",
    ]


# The cards


@pytest.mark.parametrize("named", ["{name}", "{folder}/{name}.toml", "{folder}/{name}.safetensors"])
def test_a_run_names_a_bundled_model_by_its_name_or_by_a_path(zoo_folder, named):
    folder = zoo_folder.resolve()
    assert zoo.card_of_run(NAME, named.format(name=NAME, folder=folder)) == zoo_folder / f"{NAME}.toml"


@pytest.mark.parametrize(
    "named", ["", FILE, "/elsewhere/{name}.toml", "{folder}/other.toml", "{folder}/below/{name}.toml"]
)
def test_a_file_of_the_same_name_elsewhere_is_no_bundled_model(zoo_folder, named):
    assert zoo.card_of_run(NAME, named.format(name=NAME, folder=zoo_folder.resolve())) is None


def test_a_run_about_another_model_has_no_bundled_card(zoo_folder):
    assert zoo.card_of_run("another", "another") is None


def test_the_zoo_is_the_folder_in_the_package_or_beside_it(tmp_path, monkeypatch):
    package = tmp_path / "site" / "robench"
    package.mkdir(parents=True)
    monkeypatch.setattr(zoo, "PACKAGE", package)
    assert zoo.zoo_folder() is None
    assert zoo.zoo_names() == ()
    (tmp_path / "site" / "model_zoo").mkdir()
    assert zoo.zoo_folder() == tmp_path / "site" / "model_zoo"
    (package / "model_zoo").mkdir()
    assert zoo.zoo_folder() == package / "model_zoo"


# On this machine


def test_weights_are_read_from_the_first_folder_that_has_them(tmp_path, zoo_folder, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv(zoo.VARIABLE, str(tmp_path / "mine"))
    folders = places(tmp_path, zoo_folder)
    for folder in folders:
        put(folder / FILE)
    for folder in folders:
        assert locate(NAME)[0] == folder / FILE
        (folder / FILE).unlink()
    assert FILE in refusal()


@pytest.mark.parametrize("number", range(6))
def test_weights_in_any_of_the_folders_are_found_without_a_download(tmp_path, zoo_folder, monkeypatch, server, number):
    (tmp_path / "mine").mkdir()
    monkeypatch.setattr(zoo, "PUBLISHED", (server.address,))
    monkeypatch.setenv(zoo.VARIABLE, str(tmp_path / "mine"))
    weights = put(places(tmp_path, zoo_folder)[number] / FILE)
    assert locate(NAME) == (weights, card())
    assert locate(zoo_folder / f"{NAME}.toml") == (weights, card())
    assert server.requested_paths == []


@pytest.mark.parametrize("number", range(1, 5))
def test_another_file_of_that_name_is_skipped_and_named_if_nothing_else_is_found(
    tmp_path, zoo_folder, monkeypatch, number
):
    wrong = put(places(tmp_path, zoo_folder)[number] / FILE, OTHER)
    message = refusal()
    assert f"replace {wrong}, which is not the file that the card was written for" in message
    assert all_ways_out_are_in(message)
    right = put(tmp_path / "mine" / FILE)
    monkeypatch.setenv(zoo.VARIABLE, str(tmp_path / "mine"))
    assert locate(NAME)[0] == right


def test_another_file_beside_the_card_is_refused_even_if_the_right_one_is_elsewhere(tmp_path, zoo_folder):
    put(zoo_folder / FILE, OTHER)
    put(tmp_path / "cache" / "model_zoo" / FILE)
    assert "has SHA-256" in refusal()


def test_an_unreadable_file_is_skipped(tmp_path, zoo_folder, monkeypatch):
    locked = put(tmp_path / "work" / "model_zoo" / FILE)
    right = put(tmp_path / "cache" / "model_zoo" / FILE)

    def sha256(path: Path) -> str:
        if path == locked:
            raise PermissionError(errno.EACCES, "Permission denied")
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(zoo, "sha256", sha256)
    assert locate(NAME)[0] == right


def test_a_folder_under_the_name_of_the_weights_is_not_them(tmp_path, zoo_folder):
    for folder in places(tmp_path, zoo_folder)[1:5]:
        (folder / FILE).mkdir(parents=True)
    message = refusal()
    assert all_ways_out_are_in(message)
    assert "replace" not in message


def test_a_working_folder_that_was_deleted_is_not_searched(tmp_path, zoo_folder):
    Path.cwd().rmdir()
    assert all_ways_out_are_in(refusal())
    right = put(tmp_path / "cache" / "model_zoo" / FILE)
    assert locate(NAME)[0] == right


def test_if_no_folder_has_the_weights_the_error_lists_folders_and_alternatives(tmp_path, zoo_folder, monkeypatch):
    (tmp_path / "work" / "model_zoo").mkdir()
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv(zoo.VARIABLE, str(tmp_path / "mine"))
    folders = [zoo_folder, *(tmp_path / name for name in ("work/model_zoo", "cache/model_zoo", "mine"))]
    message = refusal()
    assert (
        f"the weights of {NAME} are in none of the folders {', '.join(map(str, folders))}; set ROBENCH_ZOO" in message
    )
    assert all_ways_out_are_in(message)
    write_card(zoo_folder / f"{NAME}.toml", card(command=""))
    assert refusal().endswith(", or run robench in a source checkout whose model_zoo/ has it")


@pytest.mark.parametrize(
    "text",
    [
        *("nowhere", "~no-such-user/zoo", FILE, "ftp://127.0.0.1/zoo", "file:///", "http://", "https:///zoo"),
        *("http://[::1/zoo", "http://127.0.0.1:port/", "http://127.0.0.1:99999/", "http://127.0.0.1:0/"),
    ],
)
def test_a_variable_that_names_neither_a_folder_nor_an_address_is_refused(tmp_path, zoo_folder, monkeypatch, text):
    put(Path(FILE))
    monkeypatch.setenv(zoo.VARIABLE, text)
    assert f"ROBENCH_ZOO is {text!r}, which is neither a folder nor an http(s) address" in refusal()
    right = put(tmp_path / "cache" / "model_zoo" / FILE)
    assert locate(NAME)[0] == right  # it is not needed then


def test_an_empty_variable_counts_as_none(zoo_folder, monkeypatch):
    monkeypatch.setenv(zoo.VARIABLE, "")
    assert all_ways_out_are_in(refusal())


def test_a_missing_file_named_like_a_bundled_model_is_refused_with_the_models_name(zoo_folder):
    assert refusal(FILE) == f"there is no file {FILE}; the bundled model is called {NAME}"


# From an address


@pytest.mark.parametrize(
    ("base", "requested"),
    [
        ("", FILE),
        ("zoo/", f"zoo/{FILE}"),
        ("zoo", f"zoo/{FILE}"),
        ("a%20zoo?token=a/b&c=d#top", f"a%20zoo/{FILE}?token=a/b&c=d"),
    ],
)
def test_weights_are_fetched_once_into_the_cache(tmp_path, zoo_folder, monkeypatch, server, base, requested):
    server.files[requested] = CONTENT
    monkeypatch.setenv(zoo.VARIABLE, server.address + base)
    for _ in range(2):
        assert locate(NAME) == (tmp_path / "cache" / "model_zoo" / FILE, card())
    assert server.requested_paths == [requested]
    assert left_in(tmp_path / "cache") == [FILE]
    assert (tmp_path / "cache" / "model_zoo" / FILE).read_bytes() == CONTENT


def test_the_users_address_takes_precedence_over_the_published_ones(tmp_path, zoo_folder, monkeypatch, server, nowhere):
    server.files |= {f"ours/{FILE}": OTHER, f"ours-too/{FILE}": CONTENT}
    monkeypatch.setattr(zoo, "PUBLISHED", (f"{server.address}ours", f"{server.address}ours-too"))
    monkeypatch.setenv(zoo.VARIABLE, f"{server.address}mine")
    assert locate(NAME)[0].read_bytes() == CONTENT
    assert server.requested_paths == [f"mine/{FILE}", f"ours/{FILE}", f"ours-too/{FILE}"]


def test_a_wrong_file_in_the_cache_is_replaced_by_the_right_one(tmp_path, zoo_folder, monkeypatch, server):
    put(tmp_path / "cache" / "model_zoo" / FILE, OTHER)
    server.files[FILE] = CONTENT
    monkeypatch.setenv(zoo.VARIABLE, server.address)
    assert locate(NAME)[0].read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("body", "missing_bytes", "answer"),
    [
        (OTHER, 0, "a file with another checksum"),
        (CONTENT[:5000], 0, "a file with another checksum"),
        (b"", 0, "a file with another checksum"),
        (CONTENT[:100_000], len(CONTENT) - 100_000, "the transfer broke off"),
        (PAGE, 0, "an HTML page instead of the file"),
        (None, 0, "HTTP 404"),
    ],
)
def test_a_download_with_a_wrong_checksum_leaves_no_file(
    tmp_path, zoo_folder, monkeypatch, server, body, missing_bytes, answer
):
    if body is not None:
        server.files[FILE] = body
        server.missing_bytes[FILE] = missing_bytes
    monkeypatch.setenv(zoo.VARIABLE, server.address)
    message = refusal()
    assert message.startswith(f"the model {NAME} is not on this machine and {FILE} cannot be downloaded ")
    assert f"({server.run_library}: {answer})" in message
    assert all_ways_out_are_in(message)
    assert left_in(tmp_path / "cache") == []


def test_without_a_connection_the_error_lists_alternatives_but_no_password(zoo_folder, monkeypatch, nowhere):
    monkeypatch.setenv(zoo.VARIABLE, nowhere.replace("http://", "http://user:secret@"))
    message = refusal()
    assert f"({nowhere.removeprefix('http://').rstrip('/')}: no connection)" in message
    assert "secret" not in message
    assert all_ways_out_are_in(message)


def test_an_invalid_host_name_is_named(zoo_folder, monkeypatch):
    monkeypatch.setenv(zoo.VARIABLE, "http://*.example/")
    assert "(*.example: not a valid address)" in refusal()


def test_a_process_killed_half_way_leaves_nothing_under_the_name_and_the_next_one_fetches(
    tmp_path, zoo_folder, monkeypatch, server
):
    server.files[FILE] = CONTENT[: len(CONTENT) // 2]
    server.missing_bytes[FILE] = len(CONTENT) - len(CONTENT) // 2
    server.open_until.clear()
    monkeypatch.setenv(zoo.VARIABLE, server.address)
    code = """
import sys, pooch, pathlib
from robench.problem.checkpoints import locate, zoo
pooch.os_cache = lambda name: sys.argv[1]
zoo.zoo_folder = lambda: pathlib.Path(sys.argv[2])
locate(sys.argv[3])
"""
    folder = tmp_path / "cache" / "model_zoo"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "cache"), str(zoo_folder), NAME])
    try:
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size for path in folder.glob("*")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (folder / FILE).exists()
    server.open_until.set()
    server.files[FILE], server.missing_bytes = CONTENT, {}
    assert locate(NAME)[0].read_bytes() == CONTENT


def test_a_cache_that_cannot_be_a_folder_is_named_with_every_way_out(tmp_path, zoo_folder, monkeypatch, server):
    server.files[FILE] = CONTENT
    monkeypatch.setenv(zoo.VARIABLE, server.address)
    (tmp_path / "cache").write_text("a file where the folder should be")
    message = refusal()
    assert message.startswith(f"the model {NAME} cannot be stored in {tmp_path / 'cache' / 'model_zoo'} (")
    assert all_ways_out_are_in(message)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_read_only_or_full_cache_is_named_and_its_files_are_used(tmp_path, zoo_folder, monkeypatch, server, code):
    """The super user may write where others may not, so here the file system itself answers."""

    def read_only(*_, **__):
        raise OSError(code, os.strerror(code))

    server.files[FILE] = CONTENT
    monkeypatch.setenv(zoo.VARIABLE, server.address)
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "NamedTemporaryFile", read_only)
        message = refusal()
        assert message.startswith(f"the model {NAME} cannot be stored in {tmp_path / 'cache' / 'model_zoo'} (")
        assert all_ways_out_are_in(message)
        assert left_in(tmp_path / "cache") == []
        right = put(tmp_path / "cache" / "model_zoo" / FILE)
        assert locate(NAME)[0] == right


# Whose cards


def test_a_card_that_is_not_bundled_uses_only_the_file_beside_it(tmp_path, zoo_folder, monkeypatch, server):
    server.files[FILE] = CONTENT
    monkeypatch.setattr(zoo, "PUBLISHED", (server.address,))
    monkeypatch.setenv(zoo.VARIABLE, server.address)
    put(tmp_path / "cache" / "model_zoo" / FILE)
    stranger = tmp_path / "work" / "below" / f"{NAME}.toml"
    shutil.copy(zoo_folder / f"{NAME}.toml", stranger)
    for text in (stranger, stranger.name):
        assert refusal(text).endswith(
            f"is for {FILE}, which is not in its folder; put it there, or make the model: {COMMAND}"
        )
    assert server.requested_paths == []


@pytest.mark.parametrize("weights", ["", "..", "../w", "/w", "a/b", "w/"])
def test_a_card_names_a_file_of_its_folder_and_no_path(zoo_folder, monkeypatch, server, weights):
    monkeypatch.setenv(zoo.VARIABLE, server.address)
    write_card(zoo_folder / f"{NAME}.toml", card(weights=weights))
    assert "no slash, backslash or colon" in refusal()
    assert server.requested_paths == []


@pytest.mark.parametrize(
    "text", [f"../model_zoo/{NAME}", f"./{NAME}", f"{NAME}/", f"x/../{NAME}", f"{NAME}\0", "..", "."]
)
def test_a_path_is_not_the_name_of_a_bundled_model(zoo_folder, monkeypatch, server, text):
    monkeypatch.setenv(zoo.VARIABLE, server.address)
    assert refusal(text)
    assert server.requested_paths == []


def test_a_name_with_characters_of_addresses_is_one_file_of_the_address(tmp_path, zoo_folder, monkeypatch, server):
    name = "50%2e of #1? a&b"
    server.files["zoo/50%252e%20of%20%231%3F%20a%26b.safetensors"] = CONTENT
    monkeypatch.setenv(zoo.VARIABLE, f"{server.address}zoo")
    write_card(zoo_folder / f"{name}.toml", card(name=name, weights=f"{name}.safetensors"))
    assert locate(name)[0] == tmp_path / "cache" / "model_zoo" / f"{name}.safetensors"


# The real ones


@pytest.mark.parametrize("name", zoo.zoo_names())
def test_a_bundled_model_is_here_or_the_error_says_how_to_get_it(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache")
    monkeypatch.delenv(zoo.VARIABLE, raising=False)
    path = zoo.zoo_card(name)
    card = read_card(path)
    if zoo.has_weights(path, card):
        assert locate(name) == (path.with_suffix(".safetensors"), card)
    else:
        assert refusal(name).endswith(card.command)
