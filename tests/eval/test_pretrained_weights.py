"""Pretrained weights: the places that are searched, downloads, and verification by SHA-256."""

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.eval import pretrained_weights
from smalti.eval.pretrained_weights import SOURCES, WeightsSource, WeightsUnavailableError, resolve

CONTENT = b"the weights of a network" * 1000
PREFIX = hashlib.sha256(CONTENT).hexdigest()[:8]
FILE = f"vgg16-{PREFIX}.pth"


class NoMemory(dict):
    """A dictionary of failures in which none is found, as in another process."""

    def __contains__(self, url):
        return False


class Handler(BaseHTTPRequestHandler):
    def __init__(self, served, *args):
        self.served = served
        super().__init__(*args)

    def do_GET(self):
        self.served["requests"] += 1
        time.sleep(self.served["seconds"])
        self.send_response(self.served["status"])
        self.end_headers()
        self.wfile.write(self.served["content"])

    def log_message(self, *args):
        pass


@pytest.fixture
def served(monkeypatch, tmp_path):
    """A server with the vgg16 weights, and an empty cache."""
    served = {"content": CONTENT, "status": 200, "requests": 0, "seconds": 0}
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, served))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/{FILE}"
    for name in SOURCES:
        monkeypatch.setitem(SOURCES, name, WeightsSource(url))
    monkeypatch.setattr(pretrained_weights, "_failures", {})
    monkeypatch.delenv("SMALTI_WEIGHTS", raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    yield served | {"state": served, "cache": tmp_path / "hub" / "checkpoints", "url": url}
    server.shutdown()
    server.server_close()


def test_the_published_files_and_hashes():
    assert {name: (s.file, s.prefix) for name, s in SOURCES.items()} == {
        "vgg16": ("vgg16-397923af.pth", "397923af"),
        "alexnet": ("alexnet-owt-7be5be79.pth", "7be5be79"),
        "inception": ("weights-inception-2015-12-05-6726825d.pth", "6726825d"),
        "i3d": ("i3d_torchscript.pt", "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"),
    }


def test_a_download_is_cached(served):
    found = resolve("vgg16")
    assert found == served["cache"] / FILE
    assert found.read_bytes() == CONTENT
    assert resolve("vgg16") == found
    assert served["state"]["requests"] == 1


@pytest.mark.parametrize("fault", [{"status": 404}, {"content": CONTENT[:-1]}])
def test_a_failed_download_names_the_file_and_is_not_repeated(served, fault):
    served["state"].update(fault)
    for _ in range(2):
        with pytest.raises(WeightsUnavailableError) as caught:
            resolve("vgg16")
        for word in ("vgg16", FILE, served["url"], PREFIX, "SMALTI_WEIGHTS"):
            assert word in str(caught.value)
        assert str(caught.value).count("\n") == 0
    assert served["state"]["requests"] == 1
    assert [file for file in served["cache"].iterdir() if file.suffix != ".lock"] == []  # no partial file remains


@pytest.mark.parametrize("status", [200, 404])
def test_processes_that_need_a_file_at_the_same_time_download_it_once(served, monkeypatch, status):
    """Threads act as processes, which share no failures."""
    served["state"] |= {"status": status, "seconds": 0.3}
    monkeypatch.setattr(pretrained_weights, "_failures", NoMemory())

    def result(_):
        try:
            return resolve("vgg16").read_bytes()
        except WeightsUnavailableError:
            return None

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(result, range(4))) == [CONTENT if status == 200 else None] * 4
    assert served["state"]["requests"] == 1


def test_a_file_is_found_after_a_failed_download(served, tmp_path, monkeypatch):
    served["state"]["status"] = 500
    with pytest.raises(WeightsUnavailableError):
        resolve("vgg16")
    (tmp_path / FILE).write_bytes(CONTENT)
    monkeypatch.setenv("SMALTI_WEIGHTS", str(tmp_path))
    assert resolve("vgg16") == tmp_path / FILE


def test_the_order_of_the_places(served, tmp_path, monkeypatch):
    option, variable = tmp_path / "option", tmp_path / "variable"
    for folder in (option, variable, served["cache"]):
        folder.mkdir(parents=True)
        (folder / FILE).write_bytes(CONTENT)
    assert resolve("vgg16") == served["cache"] / FILE
    monkeypatch.setenv("SMALTI_WEIGHTS", str(variable))
    assert resolve("vgg16") == variable / FILE
    assert resolve("vgg16", option) == option / FILE
    assert resolve("vgg16", option / FILE) == option / FILE
    assert served["state"]["requests"] == 0


def test_a_file_with_another_hash_raises_an_error_in_every_place(served, tmp_path, monkeypatch):
    bad = tmp_path / FILE
    bad.write_bytes(b"not the weights")
    with pytest.raises(SmaltiError, match=f"instead of {PREFIX}") as caught:
        resolve("vgg16", bad)
    assert not isinstance(caught.value, WeightsUnavailableError)  # a proxy must not hide it
    monkeypatch.setenv("SMALTI_WEIGHTS", str(tmp_path))
    with pytest.raises(SmaltiError, match="damaged"):
        resolve("vgg16")
    bad.write_bytes(CONTENT)  # a corrected file is read again
    assert resolve("vgg16") == bad


def test_missing_places_raise_an_error(served, tmp_path, monkeypatch):
    with pytest.raises(SmaltiError, match="not at"):
        resolve("vgg16", tmp_path / "nowhere")
    with pytest.raises(SmaltiError, match="vgg16, alexnet, inception"):
        resolve("vgg19")
    monkeypatch.setenv("SMALTI_WEIGHTS", str(tmp_path / "nowhere"))
    with pytest.raises(SmaltiError, match="not a folder"):
        resolve("vgg16")
