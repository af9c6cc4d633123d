"""A server that answers VLLMServerPrior as vLLM's does, over real HTTP, with scripted probabilities."""

from __future__ import annotations

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from hf_toedit import ScoreRequest


class Handler(BaseHTTPRequestHandler):
    """Routes: /v1/models, /v1/completions. The class attributes of a subclass are its state."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.headers_seen.append(dict(self.headers))
        if self.path == "/v1/models":
            self.send(200, {"data": self.models})
        else:
            self.send(404, {"error": {"message": "Not Found"}})

    def do_POST(self):
        self.headers_seen.append(dict(self.headers))
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.lock:
            self.bodies.append(body)
            self.num_in_flight[0] += 1
            self.num_in_flight[1] = max(self.num_in_flight)
            status = self.failures.pop(0) if self.failures else 200
        threading.Event().wait(self.seconds)
        answer = self.complete(body) if status == 200 else {"error": {"message": "not now"}}
        with self.lock:
            self.num_in_flight[0] -= 1
        self.send(status, answer)

    def complete(self, body):
        if self.answer is not None:
            return self.answer
        ids = np.array(body["prompt"])
        request = ScoreRequest(ids, np.arange(1, len(ids)))
        [scores] = self.prior.score([request], body["prompt_logprobs"])
        table = [None]
        for e, target in enumerate(ids[1:].tolist()):
            ids_K, logprob_K = scores.candidate_ids_EK[e].tolist(), scores.candidate_logprob_EK[e].tolist()
            logprobs = dict(zip(ids_K, logprob_K, strict=True))
            logprobs[target] = float(scores.logprob_E[e])
            table.append({str(id_): {"logprob": logprob, "rank": 1} for id_, logprob in logprobs.items()})
        return {"choices": [{"text": "", "prompt_logprobs": self.spoil(table)}]}

    def send(self, status, answer):
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.drip:
            with contextlib.suppress(ConnectionError):  # the client has hung up
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    threading.Event().wait(self.drip)
        else:
            self.wfile.write(body)


@contextlib.contextmanager
def serving(prior, **state):
    """(url, handler class) of a server on this machine. `state` sets attributes of the handler."""
    fields = {
        "prior": prior,
        "models": [{"id": "demo", "root": "/somewhere", "max_model_len": 201}],
        "failures": [],  # statuses that the next requests get
        "answer": None,  # given instead of log-probabilities
        "seconds": 0.0,  # that an answer takes
        "drip": 0.0,  # seconds between two bytes of an answer
        "bodies": [],
        "headers_seen": [],
        "num_in_flight": [0, 0],  # now, at most
        "lock": threading.Lock(),
        **state,
        "spoil": staticmethod(state.get("spoil", lambda table: table)),  # what becomes of a right table
    }
    handler = type("Scripted", (Handler,), fields)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler
    finally:
        server.shutdown()
        server.server_close()
