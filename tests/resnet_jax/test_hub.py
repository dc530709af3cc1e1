"""A hub that cannot be reached is reported within three seconds; no test leaves this machine."""

import http.server
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from resnet_jax import WeightsError, load_pretrained
from resnet_jax.weights.pretrained import no_answer, published_preprocessing
from train.__main__ import main


@pytest.fixture
def closed_port() -> Iterator[str]:
    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
def silent_port() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:  # which never accepts
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def error_page() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(405)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Installs a hub at an address; returns the list of requests."""

    def install(endpoint: str, offline: bool = False) -> list[str]:
        asked: list[str] = []

        def download(repository: str, file: str) -> str:
            asked.append(file)
            raise RuntimeError("the hub was asked")

        module = SimpleNamespace(
            hf_hub_download=download,
            try_to_load_from_cache=lambda *_: None,
            constants=SimpleNamespace(ENDPOINT=endpoint, HF_HUB_OFFLINE=offline),
        )
        monkeypatch.setitem(sys.modules, "huggingface_hub", module)
        monkeypatch.setenv("RESNET_JAX_WEIGHTS", str(tmp_path))
        return asked

    return install


def refusal() -> str:
    with pytest.raises(WeightsError) as caught:
        load_pretrained("resnet50", "a1_in1k")
    return str(caught.value)


def test_no_connection(hub, closed_port, tmp_path):
    asked = hub(closed_port)
    assert refusal() == (
        "timm/resnet50.a1_in1k cannot be fetched from the Hugging Face hub (no connection to "
        f"{closed_port}: Connection refused). Put its model.safetensors and config.json into "
        f"{tmp_path / 'resnet50.a1_in1k'}"
    )
    assert not asked


def test_a_server_that_does_not_answer(silent_port):
    start = time.monotonic()
    assert no_answer(silent_port, 0.3) in ("no answer within 0.3 s", "timed out")
    assert time.monotonic() - start < 3
    assert no_answer.__defaults__ is not None and no_answer.__defaults__[0] < 3


def test_a_name_server_that_does_not_answer(monkeypatch):
    def resolve(*_: object) -> None:
        time.sleep(1)
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    start = time.monotonic()
    assert no_answer("http://hub.invalid", 0.2) == "no answer within 0.2 s"
    assert time.monotonic() - start < 0.9


def test_an_error_page_is_an_answer(hub, error_page):
    assert no_answer(error_page) is None
    asked = hub(error_page)
    assert "(the hub was asked)" in refusal()
    assert asked == ["model.safetensors"]


def test_offline_mode_makes_no_request(hub, closed_port):
    hub(closed_port, offline=True)
    assert "(the hub was asked)" in refusal()


def test_no_home_directory(hub, closed_port, monkeypatch):
    hub(closed_port)
    monkeypatch.delenv("RESNET_JAX_WEIGHTS")
    monkeypatch.setenv("HOME", "")
    assert refusal().endswith("into a folder resnet50.a1_in1k under $RESNET_JAX_WEIGHTS")


def test_one_message_on_the_command_line(hub, closed_port, capsys):
    hub(closed_port)
    start = time.monotonic()
    assert main(["predict", "resnet50.a1_in1k", "x.jpg"]) == 2
    assert time.monotonic() - start < 3
    err = capsys.readouterr().err
    assert err.startswith("error: timm/resnet50.a1_in1k cannot be fetched") and err.count("\n") == 1


def test_preprocessing_alone_does_not_fetch_the_weights(hub, error_page):
    asked = hub(error_page)
    with pytest.raises(WeightsError, match="the hub was asked"):
        published_preprocessing("resnet50", "a1_in1k")
    assert asked == ["config.json"]
