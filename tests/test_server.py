"""A server as it should not be: slow, silent, talkative, or holding a secret."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import socket
import subprocess
import sys
import threading

import pytest
from conftest import NUM_IDS, load_tokenizer
from contract import some_requests
from strategies import one_line
from vllm_server import serving

from hf_toedit import ConfigError, PriorError, StaticPrior, VLLMServerPrior


@pytest.fixture(scope="module")
def scripted():
    return StaticPrior(load_tokenizer("demo"), lambda ids, t: {int(ids[t]): 0.9, 300: 0.05}, max_length=200)


@contextlib.contextmanager
def silent():
    """The url of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextlib.contextmanager
def dripping_headers():
    """The url of a server that sends a byte of its first header line every 20 ms, without end."""

    def talk(listening):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection, contextlib.suppress(OSError):
                    while True:
                        connection.sendall(b"H")
                        threading.Event().wait(0.02)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=talk, args=[listening], daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("server", [silent, dripping_headers])
def test_a_request_has_an_end_whatever_the_server_does(server):
    with server() as url, pytest.raises(PriorError) as error:
        VLLMServerPrior("demo", url, timeout_seconds=0.4).score(some_requests([20, 30], NUM_IDS), 8)
    assert "within 0.4 seconds (timeout_seconds=0.4)" in one_line(error)


@pytest.mark.parametrize("state", [{"drip": 0.01}, {"seconds": 5.0}, {"failures": [503] * 50}])
def test_the_end_is_that_of_all_attempts_together(scripted, state):
    with serving(scripted) as (url, server):
        prior = VLLMServerPrior("demo", url, timeout_seconds=1.5)
        prior.score(some_requests([9], NUM_IDS), 8)
        for name, value in state.items():
            setattr(server, name, value)
        with pytest.raises(PriorError, match=r"within 1\.5 seconds \(timeout_seconds=1\.5\)") as error:
            prior.score(some_requests([100, 90, 80], NUM_IDS), 8)
    one_line(error)
    assert ("it answered 503" in str(error.value)) == ("failures" in state)


def test_the_time_is_checked():
    for seconds in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match=r"timeout_seconds=.* must be above 0"):
            VLLMServerPrior("demo", "http://localhost:8000", timeout_seconds=seconds)


OFFLINE = """
import sys
sys.path.insert(0, "tests")
from conftest import NUM_IDS, load_tokenizer
from contract import some_requests
from vllm_server import serving
from hf_toedit import StaticPrior, VLLMServerPrior
prior = StaticPrior(load_tokenizer("demo"), lambda ids, t: {int(ids[t]): 0.9}, max_length=200)
with serving(prior) as (url, _):
    print(len(VLLMServerPrior("demo", url).score(some_requests([20], NUM_IDS), 8)))
"""


@pytest.mark.slow
def test_the_hub_may_be_off_while_a_server_is_on(monkeypatch):
    """HF_HUB_OFFLINE is about the Hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = subprocess.run([sys.executable, "-c", OFFLINE], capture_output=True, text=True, timeout=120, check=True)
    assert out.stdout.strip() == "1"


def test_a_notebook_has_an_event_loop_already(scripted):
    async def cell(prior):
        return prior.score(some_requests([20], NUM_IDS), 8)

    with serving(scripted) as (url, _):
        assert len(asyncio.run(cell(VLLMServerPrior("demo", url)))) == 1


# secrets

KEY, USER, PASSWORD = "sk-0123456789", "alice", "hunter2"


@pytest.mark.parametrize("status", [400, 401, 404])
def test_no_error_names_a_key_or_a_password(scripted, status, monkeypatch):
    """Not even where the server repeats it, and with it whatever steers a terminal."""
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    with serving(scripted) as (url, server):
        prior = VLLMServerPrior("demo", url.replace("//", f"//{USER}:{PASSWORD}@"))
        prior.score(some_requests([9], NUM_IDS), 8)
        assert server.headers_seen[0]["Authorization"].startswith("Basic ")
        server.send = lambda self, *_: (
            type(self)
            .__mro__[1]
            .send(self, status, f"\x1b[31mwrong \u202e{KEY}\x07 of {USER}:{PASSWORD}\nat {url}".encode())
        )
        with pytest.raises(PriorError, match="refused") as error:
            prior.score(some_requests([9], NUM_IDS), 8)
    message = one_line(error)
    assert "wrong" in message
    assert message.isprintable()
    for secret in (KEY, USER, PASSWORD):
        assert secret not in message + repr(prior) + prior.url
    assert pickle.loads(pickle.dumps(prior))._login == (USER, PASSWORD)  # workers need it


@pytest.mark.parametrize(
    "url",
    [
        *(f"{USER}:{PASSWORD}@localhost:8000", f"ftp://{USER}:{PASSWORD}@localhost", f"http://{USER}:{PASSWORD}@"),
        *(f"http://{USER}:{PASSWORD}@localhost:port", f"http://{USER}:{PASSWORD}@[::1", "http://localhost:0", 8000),
    ],
)
def test_a_bad_address_is_one_line_without_its_password(url):
    with pytest.raises(ConfigError, match="give one such as http://localhost:8000") as error:
        VLLMServerPrior("demo", url)
    message = one_line(error)
    assert PASSWORD not in message
    assert USER not in message


@pytest.mark.parametrize("key", ["sk-\n0123", "sk-\xe9\xe9\xe9", "sk-\x1b[31m"])
def test_a_key_that_no_header_can_hold_is_told_without_it(scripted, key, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", key)
    with serving(scripted) as (url, _), pytest.raises(PriorError, match="VLLM_API_KEY has characters") as error:
        VLLMServerPrior("demo", url).score(some_requests([9], NUM_IDS), 8)
    assert "sk-" not in one_line(error)


def test_a_key_may_end_in_a_newline(scripted, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", f"{KEY}\n")
    with serving(scripted) as (url, server):
        VLLMServerPrior("demo", url).score(some_requests([9], NUM_IDS), 8)
    assert server.headers_seen[0]["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("models", "told"),
    [
        ([{"id": "\x1b[2J\u202eevil\n", "max_model_len": 100}], r"serves '\\x1b"),
        ([{"id": "x" * 5000}], "serves 'xxx"),
        ([{"id": ["demo"], "root": {}}], "serves"),
        ([{"root": "demo", "max_model_len": 100}], "max_model_len"),
        *(([{"id": "demo", "max_model_len": value}], "max_model_len") for value in (True, -5, 0, 1, "100", 1e9)),
    ],
)
def test_a_strange_list_of_models_is_one_printable_line(scripted, models, told):
    with serving(scripted, models=models) as (url, _), pytest.raises(PriorError, match=told) as error:
        VLLMServerPrior("demo", url).score(some_requests([9], NUM_IDS), 8)
    assert one_line(error).isprintable()


def test_an_interrupt_ends_the_requests_at_once():
    """Ctrl-C does not wait for a server that hangs."""
    code = (
        "import os, sys, signal, threading; sys.path.insert(0, 'tests')\n"
        "from contract import some_requests\nfrom hf_toedit import VLLMServerPrior\n"
        "sys.modules[VLLMServerPrior.__module__].LISTING_SECONDS = 1e6  # what an interrupt must not wait for\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "threading.Timer(1.0, os.kill, [os.getpid(), signal.SIGINT]).start()\n"  # wakes the main thread, as Ctrl-C does
        "try:\n    VLLMServerPrior('demo', sys.argv[1]).score(some_requests([9], 300), 8)\n"
        "except KeyboardInterrupt:\n    print('interrupted')\n"
    )
    with silent() as url:
        out = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, timeout=300, check=True)
    assert out.stdout.strip() == "interrupted"
