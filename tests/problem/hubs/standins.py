"""Stand-ins: a hub on this machine, and packages with the interfaces of timm, torchvision and RobustBench.

The answers of the hub are those of https://huggingface.co/docs/hub/api (the list with `blobs=true`) and of
huggingface_hub (the headers in utils/_http.py). The interfaces of the packages are those of timm/models/_factory.py and
_builder.py (1.0), torchvision/models/_api.py and transforms/_presets.py (0.20), and robustbench/utils.py (1.1).
"""

import enum
import hashlib
import json
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType, SimpleNamespace
from urllib.parse import unquote, urlsplit

from torch import nn

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LATER = "89abcdef0123456789abcdef0123456789abcdef"


@dataclass
class Repository:
    """A repository: its files at each commit, and the commit of each branch."""

    commits: dict[str, dict[str, bytes]]
    branches: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    private: bool = False  # unknown without the token
    gated: bool = False  # listed, but its files need the token


class Hub:
    """Speaks the two addresses of the hub that robench uses, and records what was requested."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.token = "hf_secret"
        self.requested: list[str] = []
        self.tokens: list[str] = []
        self.status = 200  # of every answer
        self.page = b""  # sent in place of every answer
        self.cut = 0  # bytes that are missing at the end of files
        self.changed = b""  # sent in place of files
        self.silent = False
        self.open_until = threading.Event()  # when silence ends
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})

    def add(self, name: str, files: dict[str, bytes]) -> Repository:
        self.repositories[name] = Repository({COMMIT: files})
        return self.repositories[name]

    @property
    def files_requested(self) -> list[str]:
        return [path.rpartition("/")[2] for path in self.requested if "/resolve/" in path]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(request.path).path)
        self.requested.append(request.path)
        self.tokens.append(request.headers.get("Authorization", ""))
        if self.silent:
            self.open_until.wait(timeout=60)
            return None
        if self.status != 200 or self.page:
            return self._send(request, self.status, self.page)
        known = request.headers.get("Authorization") == f"Bearer {self.token}"
        listed = path.startswith("/api/models/")
        name, _, rest = path.removeprefix("/api/models/").lstrip("/").partition("/revision/" if listed else "/resolve/")
        repository = self.repositories.get(name)
        if repository is None or (repository.private and not known):
            return self._send(request, 401, b"", "RepoNotFound")
        if repository.gated and not known and not listed:
            return self._send(request, 401, b"", "GatedRepo")
        branches = [*repository.branches, *repository.commits]
        branch = next((b for b in branches if rest == b or rest.startswith(f"{b}/")), "")
        commit = repository.branches.get(branch, branch)
        if commit not in repository.commits:
            return self._send(request, 404, b"", "RevisionNotFound")
        files = repository.commits[commit]
        if listed:
            listing = {"sha": commit, "siblings": [*map(stated, files.items())]}
            return self._send(request, 200, json.dumps(listing).encode())
        file = rest.removeprefix(f"{branch}/")
        if file not in files:
            return self._send(request, 404, b"", "EntryNotFound")
        return self._send(request, 200, self.changed or files[file], cut=self.cut)

    def _send(self, request: BaseHTTPRequestHandler, status: int, body: bytes, code: str = "", cut: int = 0) -> None:
        request.send_response(status)
        if code:
            request.send_header("X-Error-Code", code)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[: len(body) - cut])

    def __enter__(self) -> "Hub":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.open_until.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def stated(file: tuple[str, bytes]) -> dict[str, object]:
    """A file in the hub's list: large ones with their SHA-256, all with git's hash."""
    name, body = file
    found: dict[str, object] = {"rfilename": name, "size": len(body)}
    if name.endswith((".safetensors", ".bin", ".pt")):
        pointer = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
        return found | {"blobId": "0" * 40, "lfs": pointer}
    return found | {"blobId": hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()}


def module(monkeypatch, name: str, **content: object) -> ModuleType:
    """A module that `import` finds."""
    made = ModuleType(name)
    made.__dict__.update(content)
    made.__spec__ = SimpleNamespace(name=name, origin=None)  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, name, made)
    return made


class Net(nn.Module):
    """A small network with the attribute that timm's have."""

    def __init__(self, outputs: int = 10, channels: int = 3):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(channels, 4, 3), nn.Linear(4, outputs)
        self.pretrained_cfg: dict[str, object] = {}

    def forward(self, x):
        return self.fc(self.conv(x).mean(dim=(2, 3)))


def timm(monkeypatch, net: Net, **config: object) -> list[tuple[str, dict[str, object]]]:
    """timm with one network; returns the calls of `create_model`."""
    net.pretrained_cfg = {
        "architecture": "tinynet_a", "tag": "in1k", "hf_hub_id": "timm/tinynet_a.in1k", "input_size": (3, 32, 32),
        "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.1), "num_classes": 10, "crop_pct": 0.875,
        "interpolation": "bicubic", **config,
    }  # fmt: skip
    calls = []

    def create_model(model_name, pretrained=False, **kwargs):
        print("timm says something")
        calls.append((model_name, {"pretrained": pretrained, **kwargs}))
        return net

    module(
        monkeypatch,
        "timm",
        create_model=create_model,
        is_model=lambda name: name == "tinynet_a",
        list_models=lambda: ["tinynet_a", "tinynet_b"],
    )
    return calls


def torchvision(monkeypatch, net: nn.Module, *, private: bool = False) -> list[tuple[str, object]]:
    """torchvision with one classifier of two sets of weights; returns the calls of `get_model`."""
    line = "_" if private else ""  # in older versions the settings are private
    preset = {f"{line}mean": [0.1, 0.2, 0.3], f"{line}std": [0.4, 0.5, 0.6], f"{line}crop_size": [32]}
    preset |= {"_size" if private else "resize_size": [36], f"{line}interpolation": SimpleNamespace(value="bilinear")}

    class Weights(enum.Enum):
        IMAGENET1K_V1 = "https://download.pytorch.org/models/tinynet-00000001.pth"
        IMAGENET1K_V2 = "https://download.pytorch.org/models/tinynet-00000002.pth"
        DEFAULT = IMAGENET1K_V2

        @property
        def url(self):
            return self.value

        @property
        def meta(self):
            return {"categories": [*map(str, range(10))]}

        def transforms(self):
            return SimpleNamespace(**preset)

    calls = []

    def get_model(name, **config):
        calls.append((name, config["weights"]))
        return net

    module(monkeypatch, "torchvision")
    module(
        monkeypatch,
        "torchvision.models",
        get_model=get_model,
        get_model_weights=lambda name: Weights,
        list_models=lambda module=None: ["tinynet"],
    )
    return calls


def robustbench(monkeypatch, load_model) -> None:
    """RobustBench with one model, which `load_model` makes."""

    class BenchmarkDataset(enum.Enum):
        cifar_10 = "cifar10"
        imagenet = "imagenet"

    class ThreatModel(enum.Enum):
        Linf = "Linf"
        L2 = "L2"

    known = {BenchmarkDataset.cifar_10: {ThreatModel.Linf: {"Tiny2026Net": {}}}}
    module(monkeypatch, "robustbench")
    module(monkeypatch, "robustbench.utils", load_model=load_model)
    module(monkeypatch, "robustbench.model_zoo", model_dicts=known)
    module(monkeypatch, "robustbench.model_zoo.enums", BenchmarkDataset=BenchmarkDataset, ThreatModel=ThreatModel)
