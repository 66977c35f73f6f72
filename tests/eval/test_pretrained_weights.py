import hashlib
import logging
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.eval import pretrained_weights as weights
from smalti.eval.feature_networks.efflite0_frechet import EffLite0MotionNetwork, EffLite0Network
from smalti.eval.feature_networks.efflite0_perceptual import EffLite0Perceptual
from smalti.eval.feature_networks.selection import frechet_network, perceptual_network
from smalti.eval.pretrained_weights import SOURCES, WeightsSource, WeightsUnavailableError, resolve

CONTENT = b"the weights of a network" * 1000
PREFIX = hashlib.sha256(CONTENT).hexdigest()[:8]
FILE = f"vgg16-{PREFIX}.pth"


class Handler(BaseHTTPRequestHandler):
    def __init__(self, served, *args):
        self.served = served
        super().__init__(*args)

    def do_GET(self):
        self.served["asked"] += 1
        self.send_response(self.served["status"])
        self.end_headers()
        self.wfile.write(self.served["content"])

    def log_message(self, *args):
        pass


@pytest.fixture
def served(monkeypatch, tmp_path):
    """A server that has the vgg16 weights, and a machine that has nothing."""
    served = {"content": CONTENT, "status": 200, "asked": 0}
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, served))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/{FILE}"
    for name in SOURCES:
        monkeypatch.setitem(SOURCES, name, WeightsSource(url))
    monkeypatch.setattr(weights, "_failures", {})
    monkeypatch.delenv("SMALTI_WEIGHTS", raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    yield served | {"state": served, "cache": tmp_path / "hub" / "checkpoints", "url": url}
    server.shutdown()
    server.server_close()


def test_published_files_and_hashes():
    assert {name: (s.file, s.prefix) for name, s in SOURCES.items()} == {
        "vgg16": ("vgg16-397923af.pth", "397923af"),
        "alexnet": ("alexnet-owt-7be5be79.pth", "7be5be79"),
        "inception": ("weights-inception-2015-12-05-6726825d.pth", "6726825d"),
        "i3d": ("i3d_torchscript.pt", "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"),
    }


def test_a_download_is_kept_in_the_cache(served):
    found = resolve("vgg16")
    assert found == served["cache"] / FILE
    assert found.read_bytes() == CONTENT
    assert resolve("vgg16") == found
    assert served["state"]["asked"] == 1


@pytest.mark.parametrize("fault", [{"status": 404}, {"content": CONTENT[:-1]}])
def test_a_failed_download_says_what_is_wanted_and_is_not_repeated(served, fault):
    served["state"].update(fault)
    for _ in range(2):
        with pytest.raises(WeightsUnavailableError) as caught:
            resolve("vgg16")
        for word in ("vgg16", FILE, served["url"], PREFIX, "SMALTI_WEIGHTS"):
            assert word in str(caught.value)
        assert str(caught.value).count("\n") == 0
    assert served["state"]["asked"] == 1
    assert list(served["cache"].iterdir()) == []  # no half a file is left


def test_a_file_that_came_later_is_found_after_a_failure(served, tmp_path, monkeypatch):
    served["state"]["status"] = 500
    with pytest.raises(WeightsUnavailableError):
        resolve("vgg16")
    (tmp_path / FILE).write_bytes(CONTENT)
    monkeypatch.setenv("SMALTI_WEIGHTS", str(tmp_path))
    assert resolve("vgg16") == tmp_path / FILE


def test_the_order_of_places(served, tmp_path, monkeypatch):
    option, variable = tmp_path / "option", tmp_path / "variable"
    for folder in (option, variable, served["cache"]):
        folder.mkdir(parents=True)
        (folder / FILE).write_bytes(CONTENT)
    assert resolve("vgg16") == served["cache"] / FILE
    monkeypatch.setenv("SMALTI_WEIGHTS", str(variable))
    assert resolve("vgg16") == variable / FILE
    assert resolve("vgg16", option) == option / FILE
    assert resolve("vgg16", option / FILE) == option / FILE
    assert served["state"]["asked"] == 0


def test_another_hash_is_refused_wherever_it_lies(served, tmp_path, monkeypatch):
    bad = tmp_path / FILE
    bad.write_bytes(b"not the weights")
    with pytest.raises(SmaltiError, match=f"{PREFIX} is wanted") as caught:
        resolve("vgg16", bad)
    assert not isinstance(caught.value, WeightsUnavailableError)  # no stand-in may hide it
    monkeypatch.setenv("SMALTI_WEIGHTS", str(tmp_path))
    with pytest.raises(SmaltiError, match="damaged"):
        resolve("vgg16")
    bad.write_bytes(CONTENT)  # a file that was mended is read again
    assert resolve("vgg16") == bad


def test_places_that_are_not_there(served, tmp_path, monkeypatch):
    with pytest.raises(SmaltiError, match="not at"):
        resolve("vgg16", tmp_path / "nowhere")
    with pytest.raises(SmaltiError, match="vgg16, alexnet, inception"):
        resolve("vgg19")
    monkeypatch.setenv("SMALTI_WEIGHTS", str(tmp_path / "nowhere"))
    with pytest.raises(SmaltiError, match="not a folder"):
        resolve("vgg16")


@pytest.mark.parametrize(
    ("factory", "network", "stand_in", "metric"),
    [
        (perceptual_network, "lpips_vgg", EffLite0Perceptual, "lpips"),
        (perceptual_network, "lpips_alex", EffLite0Perceptual, "lpips"),
        (frechet_network, "inception", EffLite0Network, "rfid"),
        (frechet_network, "i3d", EffLite0MotionNetwork, "rfvd"),
    ],
)
def test_a_stand_in_is_said_once_and_can_be_refused(served, caplog, factory, network, stand_in, metric):
    served["state"]["status"] = 404
    with caplog.at_level(logging.INFO):
        assert isinstance(factory(network), stand_in)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for word in (stand_in.metric, metric, "not comparable", FILE, "SMALTI_WEIGHTS"):
        assert word in record.getMessage()
    with pytest.raises(WeightsUnavailableError):
        factory(network, stand_in=False)


@pytest.mark.parametrize("factory", [perceptual_network, frechet_network])
def test_a_wrong_file_is_not_hidden_by_the_stand_in(served, tmp_path, factory):
    (tmp_path / "x.pth").write_bytes(b"no")
    with pytest.raises(SmaltiError, match="damaged"):
        factory(weights=tmp_path / "x.pth")
    with pytest.raises(SmaltiError, match="efflite0"):
        factory("resnet")
