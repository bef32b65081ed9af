"""Files of the Hugging Face Hub, from a hub on this machine."""

import gc
import hashlib
import json
import os

import pytest
import torch
from safetensors.torch import save
from torch import nn

from robench.errors import UserError
from robench.problem.architectures import ARCHITECTURES
from robench.problem.checkpoints import load
from robench.problem.checkpoints.hubs import huggingface
from robench.problem.checkpoints.hubs.huggingface import is_here, resolve
from robench.problem.checkpoints.zoo import zoo_folder

from ..serving import left_in
from .standins import COMMIT, LATER

NAME = "hf:me/net"
PINNED = f"hf:me/net@{COMMIT}/model.safetensors"


@pytest.fixture(autouse=True)
def forgetful(monkeypatch):
    """What one test finds, no other test knows."""
    monkeypatch.setattr(huggingface, "_FOUND", {})


def forget() -> None:
    """As a new process."""
    huggingface._FOUND.clear()


def network() -> nn.Module:
    torch.manual_seed(0)
    return ARCHITECTURES["lenet"].build((1, 28, 28), 10).eval()


@pytest.fixture(scope="module")
def weights() -> bytes:
    return save(network().state_dict(), {"format": "pt"})


def refused(text: str) -> str:
    with pytest.raises(UserError) as caught:
        resolve(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_repository_is_read_at_the_commit_of_its_branch_with_the_hash_of_its_file(hub, cache, weights):
    hub.add("me/net", {"README.md": b"# net", "model.safetensors": weights})
    found = load(NAME)
    x = torch.rand(3, 1, 28, 28)
    with torch.no_grad():
        assert torch.equal(found.classifier(x), network()(x))
    assert found.classifier.name == "net"
    assert found.pinned == PINNED
    assert found.recorded == {
        "source": PINNED,
        "file sha256": hashlib.sha256(weights).hexdigest(),
    }
    assert hub.files_requested == ["model.safetensors"]


def test_a_branch_that_moves_does_not_move_a_process(hub, weights):
    repository = hub.add("me/net", {"model.safetensors": weights})
    first = resolve(NAME)
    repository.commits[LATER] = {"model.safetensors": b"other"}
    repository.branches["main"] = LATER
    assert resolve(NAME) is first
    assert resolve(PINNED) is first
    forget()
    assert resolve(NAME).name == f"hf:me/net@{LATER}/model.safetensors"
    assert resolve(PINNED).path == first.path


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub, weights):
    repository = hub.add("me/net", {"model.safetensors": weights})
    repository.commits[LATER] = {"model.safetensors": b"other"}
    repository.branches |= {"v1": COMMIT, "refs/pr/1": LATER}
    assert resolve("hf:me/net@v1").path.read_bytes() == weights
    assert resolve(f"hf:me/net@{COMMIT}").path.read_bytes() == weights
    assert resolve("hf:me/net@refs%2Fpr%2F1/model.safetensors").path.read_bytes() == b"other"


def test_a_list_of_another_commit_is_not_taken(hub):
    hub.page = json.dumps({"sha": LATER, "siblings": []}).encode()
    assert "lists the files of another commit" in refused(f"hf:me/net@{COMMIT}")


def test_a_stored_file_at_a_commit_needs_no_network(hub, cache, weights, monkeypatch):
    hub.add("me/net", {"model.safetensors": weights})
    assert not is_here(PINNED)
    resolve(NAME)
    forget()
    hub.requested.clear()
    assert is_here(PINNED)
    assert resolve(PINNED).path.read_bytes() == weights
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert resolve(NAME).name == PINNED
    assert hub.requested == []


def test_where_the_hub_does_not_answer_a_branch_is_taken_from_the_cache_and_a_note_states_it(hub, weights):
    hub.add("me/net", {"model.safetensors": weights})
    resolve(NAME)
    forget()
    hub.status = 503
    found = load(NAME)
    where = hub.address.removeprefix("http://")
    assert f"{where} answers HTTP 503: me/net is taken from the cache, at commit {COMMIT[:12]}" in found.notes


def test_files_of_hugging_face_s_own_cache_are_used(hub, tmp_path, weights, monkeypatch):
    hub.add("me/net", {"model.safetensors": weights})
    own = tmp_path / "home" / "hub" / "models--me--net"
    for folder in (own / "snapshots" / COMMIT, own / "blobs", own / "refs"):
        folder.mkdir(parents=True)
    blob = own / "blobs" / hashlib.sha256(weights).hexdigest()
    blob.write_bytes(weights)
    (own / "snapshots" / COMMIT / "model.safetensors").symlink_to(blob)
    (own / "refs" / "main").write_text(COMMIT)
    assert resolve(NAME).path.read_bytes() == weights
    assert hub.files_requested == []
    forget()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")  # robench's own cache has nothing of this hub
    assert "is not in the cache" in refused(NAME)  # config.json may name another network
    (own / "snapshots" / COMMIT / "config.json").write_text("{}")
    found = resolve(NAME)
    assert (found.path.read_bytes(), found.configs) == (weights, {"config.json": {}})
    assert found.notes == (f"me/net is taken from the cache of Hugging Face's tools, at commit {COMMIT[:12]}",)


def test_a_changed_file_in_the_cache_is_fetched_again(hub, weights):
    hub.add("me/net", {"model.safetensors": weights})
    resolve(NAME).path.write_bytes(weights[:-1] + b"\1")
    forget()
    assert resolve(NAME).path.read_bytes() == weights
    assert len(hub.files_requested) == 2


def test_safetensors_are_taken_before_pickles_and_training_state_is_not(hub):
    files = {"optimizer.bin": b"o", "weights.bin": b"p", "training_args.bin": b"t"}
    repository = hub.add("me/net", files)
    assert resolve(NAME).path.name == "weights.bin"
    forget()
    repository.commits[COMMIT]["pytorch_model.bin"] = b"p"
    assert resolve(NAME).path.name == "pytorch_model.bin"
    forget()
    repository.commits[COMMIT]["a.safetensors"] = b"a"
    assert resolve(NAME).path.name == "a.safetensors"
    forget()
    repository.commits[COMMIT]["model.safetensors"] = b"m"
    assert resolve(NAME).path.name == "model.safetensors"
    assert resolve(f"{NAME}/pytorch_model.bin").path.read_bytes() == b"p"


def test_a_pickle_of_the_hub_that_would_run_code_is_refused_like_one_on_disk(hub, tmp_path, monkeypatch):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"net": Hostile()}, tmp_path / "hostile.bin")
    hub.add("me/net", {"pytorch_model.bin": (tmp_path / "hostile.bin").read_bytes()})
    with pytest.raises(UserError, match="--trust-pickle"):
        load(NAME)
    assert not (tmp_path / "owned").exists()


def test_all_parts_that_an_index_lists_are_fetched(hub):
    state = network().state_dict()
    names = [*state]
    parts = {f"model-0000{i}-of-00002.safetensors": names[i - 1 :: 2] for i in (1, 2)}
    index = {"weight_map": {name: part for part, inside in parts.items() for name in inside}}
    files = {part: save({name: state[name] for name in inside}) for part, inside in parts.items()}
    hub.add("me/net", files | {"model.safetensors.index.json": json.dumps(index).encode()})
    x = torch.rand(2, 1, 28, 28)
    with torch.no_grad():
        assert torch.equal(load(NAME).classifier(x), network()(x))
    assert is_here(f"hf:me/net@{COMMIT}/model.safetensors.index.json")
    (resolve(NAME).path.parent / "model-00002-of-00002.safetensors").unlink()
    assert not is_here(f"hf:me/net@{COMMIT}/model.safetensors.index.json")


def test_a_model_that_robench_trained_comes_with_its_card(hub):
    files = {name: (zoo_folder() / name).read_bytes() for name in ("digits-nat.safetensors", "digits-nat.toml")}
    hub.add("me/zoo", {f"models/{name}": body for name, body in files.items()})
    found = load("hf:me/zoo/models/digits-nat.safetensors")
    assert found.card is not None
    assert (found.card.name, found.classifier.name) == ("digits-nat", "digits-nat")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"README.md": b""}, "hf:me/net has no file of weights that robench reads; name a repository with a"),
        (
            {"a.safetensors": b"", "b.safetensors": b""},
            "me/net has several files of weights (a.safetensors, b.safetensors); name one, like "
            "hf:me/net/a.safetensors",
        ),
    ],
)
def test_where_no_file_is_the_obvious_one_what_to_type_is_named(hub, files, message):
    hub.add("me/net", files)
    assert refused(NAME).startswith(message)


def test_what_the_hub_refuses_is_one_sentence_with_what_to_do(hub, weights, monkeypatch):
    repository = hub.add("me/net", {"model.safetensors": weights})
    where = hub.address.removeprefix("http://")
    assert refused("hf:me/nat") == (
        f"{where} has no model me/nat (is the name spelt as on its page?), or it is private: then set HF_TOKEN"
    )
    assert refused("hf:me/net@v9") == f"me/net has no revision v9; {hub.address}/me/net lists what it has"
    assert refused("hf:me/net/modle.safetensors") == (
        "me/net has no file modle.safetensors; did you mean hf:me/net/model.safetensors?"
    )
    repository.gated = True
    assert refused(NAME) == (
        f"me/net is gated: accept its conditions on {hub.address}/me/net and set HF_TOKEN to a token of yours"
    )
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert refused(NAME).endswith("and this token has no access yet")
    hub.status = 401
    assert refused("hf:me/other") == f"{where} refuses the token; set HF_TOKEN to a valid one, or unset it"


@pytest.mark.parametrize("how", ["environment", "file"])
def test_a_token_opens_private_models_and_is_never_printed(hub, tmp_path, weights, monkeypatch, how, capfd):
    hub.add("me/net", {"model.safetensors": weights}).private = True
    assert "private" in refused(NAME)
    if how == "environment":
        monkeypatch.setenv("HF_TOKEN", f"{hub.token}\n")
    else:
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "token").write_text(hub.token)
    found = load(NAME)
    assert hub.tokens[-1] == f"Bearer {hub.token}"
    printed = capfd.readouterr()
    assert hub.token not in f"{printed}{found.notes}{found.recorded}{found.pinned}"
    stored = [path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not any(hub.token.encode() in content for content in stored)


def test_a_hub_that_does_not_answer_is_one_sentence_and_leaves_nothing(hub, cache, monkeypatch):
    hub.silent = True
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.2")
    where = hub.address.removeprefix("http://")
    assert refused(NAME) == (
        f"{where} does not answer, and me/net is not in the cache; try again later, or name a file"
    )
    assert not cache.exists()


@pytest.fixture
def uncollected():
    """No garbage of other tests is collected: its destructors fail where deep nesting exhausts the stack."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"status": 503}, "answers HTTP 503"),
        ({"status": 429}, "answers HTTP 429"),
        ({"page": b"<html>Sign in</html>"}, "sends a page instead of a list of files"),
        ({"page": b'{"sha": "../x", "siblings": []}'}, "sends a page instead of a list of files"),
        ({"page": b"[" * 100_000}, "sends a page instead of a list of files"),
        ({"page": b"[]"}, "sends a page instead of a list of files"),
    ],
)
def test_an_answer_that_is_no_hub_s_is_one_sentence(hub, cache, fault, message, uncollected):
    for name, value in fault.items():
        setattr(hub, name, value)
    assert message in refused(NAME)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"cut": 100}, "breaks off"),
        ({"changed": b"x" * 5}, "sends a file of another size for model.safetensors of me/net"),
        ({"changed": b"x" * 10**6}, "sends a file of another size for model.safetensors of me/net"),
    ],
)
def test_a_file_that_does_not_arrive_whole_is_not_stored(hub, cache, weights, fault, message):
    hub.add("me/net", {"model.safetensors": weights})
    for name, value in fault.items():
        setattr(hub, name, value)
    assert message in refused(NAME)
    assert not any(name.endswith(".safetensors") or name.startswith(".part") for name in left_in(cache))


def test_a_file_with_another_hash_is_not_stored(hub, cache, weights):
    hub.add("me/net", {"model.safetensors": weights, "config.json": b"{}"})
    hub.changed = weights[:-1] + b"\1"
    assert "sends a file with another checksum for model.safetensors" in refused(NAME)
    hub.changed = b""
    assert resolve(NAME).configs == {"config.json": {}}
    forget()
    resolve(NAME).path.with_name("config.json").unlink()
    forget()
    hub.changed = b"[]"  # small files have git's hash
    assert "sends a file with another checksum for config.json" in refused(NAME)


def test_a_name_in_a_repository_is_never_a_path_out_of_the_cache(hub, cache, tmp_path):
    outside = ["../../../../../../x.safetensors", "/x.safetensors", "a\\..\\x.safetensors", "c:x.safetensors"]
    hub.add("me/net", dict.fromkeys(outside, b"x"))
    assert "has no file of weights" in refused(NAME)
    assert all(path.suffix != ".safetensors" for path in tmp_path.rglob("*"))
    assert "cannot be read" in refused("hf:me/net/../../x.safetensors")


def test_a_cache_that_cannot_be_written_is_one_sentence(hub, cache, weights):
    hub.add("me/net", {"model.safetensors": weights})
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"a file")
    assert "cannot be made" in refused(NAME)


@pytest.mark.parametrize("text", ["hf:", "hf:net", "hf:a/b@", "hf:a/b@v/", "hf:a//b", "hf:a/b@v@w", "hf:a/b?x=1"])
def test_a_name_of_another_form_is_refused_before_anything_is_requested(hub, text):
    assert refused(text).endswith("write hf:USER/REPO, hf:USER/REPO@REVISION or hf:USER/REPO@REVISION/FILE")
    assert hub.requested == []


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (
            "HF_ENDPOINT",
            "ftp://x",
            "HF_ENDPOINT is no http(s) address; set it to one like https://huggingface.co",
        ),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "soon", "HF_HUB_DOWNLOAD_TIMEOUT is soon; set it to a number of seconds"),
        ("HF_HUB_OFFLINE", "1", "HF_HUB_OFFLINE is set and me/net is not in the cache; unset it, or name a file"),
    ],
)
def test_a_setting_of_the_environment_that_does_not_fit_is_named(hub, monkeypatch, variable, value, message):
    monkeypatch.setenv(variable, value)
    assert refused(NAME).startswith(message)
