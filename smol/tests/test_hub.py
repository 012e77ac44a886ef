"""Downloading for real: a hub of one repository on this machine, and a process that asks it."""

import hashlib
import json
import multiprocessing
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
import torch

from smol import save_pretrained
from smol.tests.reference import random_ids

COMMIT = "0123456789" * 4
SECONDS = 15  # for a failure; the hub's own client retries for 23

# A process for each load, as the hub's client reads its settings once. They are forked, where the
# system can, from one that has imported what takes seconds, and not the client.
APART = multiprocessing.get_context(
    "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
)
APART.set_forkserver_preload(["smol"])
LOAD = """
import os, sys, time, torch, smol
assert "huggingface_hub" not in sys.modules
for key in [key for key in os.environ if key.startswith(("HF_", "SMOL_"))]:
    del os.environ[key]
os.environ.update(environment)
os.chdir(folder)
torch.set_num_threads(1)
if "NO_PAUSES" in environment:  # of the client, before it asks again
    time.sleep = lambda seconds: None
if "PIN" in environment:  # the commit that is wanted, as of a published model
    smol.pretrained.PUBLISHED[name] = smol.pretrained.Published(None, environment["PIN"])
try:
    model = smol.load_pretrained(name)
except Exception as error:
    with open("error.txt", "w", encoding="utf-8") as file:
        file.write(f"{type(error).__name__}: {error}")
else:
    with torch.no_grad():
        torch.save(model(torch.load("ids.pt")), "logits.pt")
"""


class Hub:
    """What huggingface_hub needs of the hub: a repository's info, its tree, and its files.

    `trouble`: None, a status that every answer has, "silent" for a hub that takes every question
    and answers none, or "cut" for one that breaks off in the middle of the weights.
    """

    def __init__(self, files: dict[str, bytes], name: str = "someone/tiny"):
        self.files, self.name, self.trouble, self.asked = files, name, None, []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.stopping = threading.Event()
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def stop(self):
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request):
        path = urlsplit(request.path).path
        self.asked.append(path)
        if self.trouble == "silent":
            self.stopping.wait(30)
            return
        status, body, headers = self.content(path)
        if isinstance(self.trouble, int):
            status, body = self.trouble, b""
        request.send_response(status)
        for key, value in {
            "Content-Length": len(body),
            "X-Repo-Commit": COMMIT,
            **headers,
        }.items():
            request.send_header(key, str(value))
        request.end_headers()
        if self.trouble == "cut" and path.endswith(".safetensors"):
            body, request.close_connection = body[: len(body) // 2], True
        if request.command == "GET":
            request.wfile.write(body)

    def content(self, path: str) -> tuple[int, bytes, dict]:
        api = f"/api/models/{self.name}"
        if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
            siblings = [{"rfilename": name} for name in self.files]
            info = {"id": self.name, "modelId": self.name, "sha": COMMIT, "siblings": siblings}
            return 200, json.dumps(info).encode(), {}
        if path == f"{api}/tree/{COMMIT}":
            tree = [
                {"type": "file", "path": name, "size": len(body), "oid": self.etag(body)}
                for name, body in self.files.items()
            ]
            return 200, json.dumps(tree).encode(), {}
        name = path.removeprefix(f"/{self.name}/resolve/{COMMIT}/")
        if name in self.files:
            body = self.files[name]
            return 200, body, {"ETag": f'"{self.etag(body)}"'}
        return 404, b"", {"X-Error-Code": "RepoNotFound"}

    def etag(self, body: bytes) -> str:
        return hashlib.sha1(body).hexdigest()


@pytest.fixture(scope="module")
def files(tmp_path_factory, ours):
    folder = tmp_path_factory.mktemp("repository")
    save_pretrained(ours, folder)
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    return {**files, "README.md": b"# tiny", "pytorch_model.bin": b"a pickle"}


@pytest.fixture
def hub(files):
    hub = Hub(files)
    yield hub
    hub.stop()


@pytest.fixture
def load(tmp_path, hub, ours):
    """load_pretrained(name) in a process of its own, with a cache of its own."""
    torch.save(random_ids(2, 20), tmp_path / "ids.pt")

    def load(name: str = "someone/tiny", **environment: str) -> str:
        """What went wrong, or "" where the model that came is the one on the hub."""
        result, said = tmp_path / "logits.pt", tmp_path / "error.txt"
        for file in (result, said):
            file.unlink(missing_ok=True)
        environment = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            **environment,
        }
        given = {"name": name, "folder": str(tmp_path), "environment": environment}
        process = APART.Process(target=exec, args=(LOAD, given), daemon=True)
        process.start()
        process.join(60)
        assert process.exitcode == 0
        if said.exists():
            return said.read_text(encoding="utf-8")
        with torch.no_grad():
            assert torch.equal(torch.load(result), ours(random_ids(2, 20)))
        return ""

    return load


def test_downloaded_once_then_from_the_cache(hub, load):
    assert load() == ""
    fetched = {path.rpartition("/")[2] for path in hub.asked if "/resolve/" in path}
    assert fetched == {"config.json", "model.safetensors"}  # no pickle, no README
    assert load(HF_HUB_OFFLINE="1") == ""
    hub.stop()
    start = time.monotonic()
    assert load() == ""
    assert time.monotonic() - start < SECONDS


def test_another_commit_in_the_cache_serves_where_the_hub_is_away(hub, load):
    """Somebody's own tool fetched the newest; here another is pinned, with the same weights."""
    assert load() == ""
    hub.stop()
    assert load(PIN="f" * 40) == ""


def test_a_hub_that_is_not_there(hub, load):
    hub.stop()
    start = time.monotonic()
    error = load()
    assert time.monotonic() - start < SECONDS
    assert error.startswith("FileNotFoundError: someone/tiny is neither a folder here nor in the")
    assert "refused" in error and "Go online once" in error


def test_a_hub_that_does_not_answer(hub, load):
    hub.trouble = "silent"
    start = time.monotonic()
    error = load()
    assert time.monotonic() - start < 5 + SECONDS  # it is given 5 seconds
    assert error.startswith("FileNotFoundError: someone/tiny is neither") and "timed out" in error


def test_a_hub_in_trouble_leaves_the_cache_to_load_from(hub, load):
    assert load() == ""
    hub.trouble = 503
    assert load() == ""


def test_a_name_that_the_hub_does_not_know(hub, load):
    error = load(name="someone/tyni")
    assert error.startswith("FileNotFoundError: someone/tyni is neither") and "404" in error


def test_offline_asks_the_hub_nothing(hub, load):
    assert load(HF_HUB_OFFLINE="1").startswith("FileNotFoundError: someone/tiny is neither")
    assert hub.asked == []


def test_a_download_that_breaks_off_is_one_clear_sentence(hub, load):
    hub.trouble = "cut"
    assert load(NO_PAUSES="1").startswith("FileNotFoundError: someone/tiny")
