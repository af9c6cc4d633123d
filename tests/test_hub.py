"""Priors and datasets by Hub id, over HTTP against a local server."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hub_server import COMMIT, serve

from hf_toedit import ToEditTransform
from hf_toedit.priors.pretrained import DEMO_FOLDER

LOAD = """
import json, sys
from datasets.fingerprint import Hasher
from hf_toedit import PriorError, ToEditTransform, TransformersPrior
try:
    transform = ToEditTransform(TransformersPrior(sys.argv[1], revision=sys.argv[2] or None), threshold=0.5)
    row = transform({"text": sys.argv[3]})
    print(json.dumps([transform.prior.revision, row["text"], Hasher.hash(transform)]))
except PriorError as error:
    print(json.dumps(str(error)))
"""
TEXT = "Return the number of items in the list, or raise ValueError if the list is empty."


@pytest.fixture
def run(tmp_path):
    """Run code in a fresh process whose Hub is the given address."""

    def run(address, *arguments, **environment):
        variables = {
            **os.environ,
            "HF_ENDPOINT": address,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **environment,
        }
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, env=variables, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_prior_by_hub_id_has_its_commit_and_loads_from_the_cache(run):
    expected = ToEditTransform("demo", threshold=0.5)({"text": TEXT})["text"]
    with serve({"models/org/demo": DEMO_FOLDER}) as hub:
        first = json.loads(run(hub.endpoint, "-c", LOAD, "org/demo", "", TEXT))
        assert hub.asked("GET .*/model.safetensors$")
    assert first[:2] == [COMMIT, expected]
    cached = json.loads(run("http://127.0.0.1:9", "-c", LOAD, "org/demo", "", TEXT, HF_HUB_OFFLINE="1"))
    assert cached == first


@pytest.mark.parametrize(("name", "revision"), [("org/nothing", ""), ("org/demo", "no-such-branch")])
def test_what_the_hub_does_not_have_is_one_clear_line(run, name, revision):
    with serve({"models/org/demo": DEMO_FOLDER}) as hub:
        message = json.loads(run(hub.endpoint, "-c", LOAD, name, revision, TEXT))
    assert name in message
    assert "\n" not in message
