"""Tokens in a recipe reach the libraries that need them, and no file, message, digest or console."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import breadth

from hf_toedit import ConfigError
from hf_toedit.experiments.lock import Lock
from hf_toedit.experiments.plan import Plan
from hf_toedit.experiments.reading import read_recipe
from hf_toedit.files.secret import MASK, VARIABLE, Secret, scrubbed, with_secrets, without_secrets

pytest.importorskip("trl", reason="needs the extra `recipes`")
pytest.importorskip("peft", reason="needs the extra `recipes`")

pytestmark = pytest.mark.usefixtures("folder")
SENTINEL = "hf_sentinelOfTheTestThatNoFileMayHold00"


@pytest.fixture(autouse=True)
def _environment():
    """What a test puts into the environment goes with it."""
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]


def recipe(**changes):
    """A small experiment with the demo model as prior and model, on rows of its own."""
    Path("rows.jsonl").write_text(
        "".join(json.dumps({"text": f"Return item {i} of the list."}) + "\n" for i in range(12))
    )
    tree = {
        "kind": "pt",
        "model": "demo",
        "prior": {"id": "demo", "options": {"model_init_kwargs": {"token": SENTINEL}}},
        "data": "rows.jsonl",
        "arms": {"toedit": {"threshold": 0.3}},
        "seeds": 0,
        "train": {
            "hub_token": SENTINEL,
            "model_init_kwargs": {"token": SENTINEL},
            "max_steps": 1,
            "save_steps": 1,
            "max_length": 32,
            "use_cpu": True,
            "bf16": False,
            "activation_checkpointing": False,
            "disable_tqdm": True,
        },
        "evaluate": {"held_out": {"own": "rows.jsonl"}},
        **changes,
    }
    Path("r.yaml").write_text(json.dumps(tree))


def files_with(text, *folders):
    paths = [path for folder in folders for path in Path(folder).rglob("*") if path.is_file()]
    return [str(path) for path in paths if text.encode() in path.read_bytes()]


def run(*arguments):
    command = [sys.executable, "-c", "from hf_toedit.cli import app; app()", "run", "r.yaml", "--output", "out"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_no_file_below_the_output_holds_a_token_and_neither_does_the_console():
    recipe()
    done = run("--set", f"train.push_to_hub_token={SENTINEL}")
    assert done.returncode == 2
    assert SENTINEL not in done.stdout + done.stderr
    done = run("--set", "edit.num_proc=2")
    assert done.returncode == 0, done.stderr
    assert SENTINEL not in done.stdout + done.stderr
    assert not files_with(SENTINEL, "out")
    assert Path("out/train-toedit-seed0/model/training_args.bin").is_file()
    assert files_with("recall", "out/train-toedit-seed0") == ["out/train-toedit-seed0/model/training_args.bin"]


def test_a_changed_token_does_nothing_again():
    digests = []
    for token in (SENTINEL, SENTINEL.lower(), None):
        recipe(prior={"id": "demo", "options": {"model_init_kwargs": {"token": token} if token else {}}})
        plan = Plan(read_recipe(Path("r.yaml"), [f"train.hub_token={token}"]), Path("out"), Lock(Path("lock.yaml")))
        digests.append({name: stage.digest for name, stage in plan.stages.items()})
        text = json.dumps([stage.inputs for stage in plan.stages.values()])
        assert SENTINEL not in text
        assert MASK not in text
    assert digests[0] == digests[1]


def test_tokens_reach_what_loads_the_model_in_this_process_in_workers_and_under_accelerate():
    from hf_toedit.experiments import stages
    from hf_toedit.experiments.training import TrainJob, sft_config

    recipe()
    read = read_recipe(Path("r.yaml"))
    job = TrainJob("rows/data", "out", read.model, read.train, 0, prior=read.prior)
    assert sft_config(job).hub_token == SENTINEL
    assert sft_config(job).model_init_kwargs["token"] == SENTINEL
    seen = "import sys, pickle; print(pickle.load(sys.stdin.buffer)['token'])"
    sent = pickle.dumps(dict(read.prior.options["model_init_kwargs"]))
    assert SENTINEL.encode() not in sent
    worker = subprocess.run([sys.executable, "-c", seen], input=sent, capture_output=True, check=True)
    assert worker.stdout.decode().strip() == SENTINEL

    Path("job").mkdir()
    launched = {}

    def launch(command, **_):
        launched["job"] = Path(command[-1]).read_text()
        check = "import json, sys; from hf_toedit.files.secret import with_secrets; "
        check += "print(json.dumps(with_secrets(json.load(open(sys.argv[1])))))"
        done = subprocess.Popen([sys.executable, "-c", check, command[-1]], stdout=subprocess.PIPE, text=True)
        launched["tree"] = json.loads(done.communicate()[0])
        return subprocess.CompletedProcess(command, 0)

    from datasets import Dataset

    Dataset.from_dict({"text": ["a"]}).save_to_disk("rows/data")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("hf_toedit.experiments.stages.subprocess.run", launch)
        stages._train(job, "cpu.yaml", Path("job"))
    assert SENTINEL not in launched["job"]
    assert launched["tree"]["train"]["hub_token"] == SENTINEL
    assert launched["tree"]["prior"]["options"]["model_init_kwargs"]["token"] == SENTINEL


@pytest.mark.parametrize(
    ("changes", "overrides"),
    [
        ({}, [SENTINEL]),
        ({}, [f"train.hub_token:{SENTINEL}"]),
        ({}, [f"train.hub_token.deeper={SENTINEL}"]),
        ({}, [f"train.hub_token=[{SENTINEL}"]),
        ({}, ["train=3"]),
        ({"model": {"hub_token": SENTINEL}}, []),
        ({"model": [{"token": SENTINEL}]}, []),
        ({"train": [{"hub_token": SENTINEL}]}, []),
        ({"prior": {"id": {"token": SENTINEL}}}, []),
        ({"seeds": [{"api_key": SENTINEL}]}, []),
        ({"arms": [[{"password": SENTINEL}]]}, []),
        ({"data": {"source": {"password": SENTINEL}}}, []),
        ({"kind": SENTINEL}, []),
    ],
)
def test_no_message_holds_a_token(changes, overrides):
    recipe(**changes)
    with pytest.raises(ConfigError) as raised:
        read_recipe(Path("r.yaml"), overrides)
    assert SENTINEL not in str(raised.value)


def test_broken_yaml_is_told_without_its_lines():
    Path("r.yaml").write_text(f"train:\n  hub_token: {SENTINEL}: 3\n")
    with pytest.raises(ConfigError, match=r"is not valid YAML: line 2: mapping values are not allowed here") as raised:
        read_recipe(Path("r.yaml"))
    assert SENTINEL not in str(raised.value)


def test_which_fields_are_secrets():
    names = ["token", "hub_token", "api_key", "password", "Authorization", "use_auth_token", "X-Api-Key", "HF_TOKEN"]
    others = ["eos_token", "pad_token", "max_tokens", "tokenizer", "num_tokens", "author", "key"]
    tree = {**dict.fromkeys(names, "a value"), **dict.fromkeys(others, "value")}
    tree |= {
        "use_token": True,
        "list": [{"token": "a secret"}],
        "url": "https://me:word@host/x",
        "columns": {"token": "{a}"},
    }
    marked = with_secrets(tree)
    assert [name for name, value in marked.items() if isinstance(value, Secret)] == [*names, "url"]
    assert marked == tree
    assert without_secrets(marked) == {
        **dict.fromkeys(others, "value"),
        "use_token": True,
        "list": [{}],
        "columns": {"token": "{a}"},
    }
    assert str(marked).count(MASK) == len(names) + 2
    assert {name: value for name, value in os.environ.items() if name.startswith(VARIABLE)}[
        VARIABLE + "token"
    ] == "a value"
    assert scrubbed("Bearer https://me:word@host/x") == f"Bearer {MASK}"
    with pytest.raises(ConfigError, match=r"^train\.hub_token must be a string: put it in quotes$"):
        with_secrets({"train": {"hub_token": 12345678}})


def test_a_secret_is_a_string_to_who_uses_it_and_a_place_to_who_keeps_it():
    secret = with_secrets({"train": {"token": SENTINEL}})["train"]["token"]
    assert f"Bearer {secret}" == f"Bearer {SENTINEL}"
    assert copy.deepcopy(secret) is secret
    assert pickle.loads(pickle.dumps(secret)) == SENTINEL
    del os.environ[f"{VARIABLE}train_token"]
    assert pickle.loads(pickle.dumps(secret)) == MASK


def test_a_token_within_a_value_or_a_url_is_neither_recorded_nor_told():
    from hf_toedit import ToEditTransform, TransformersPrior

    options = {"header": f"Bearer {SENTINEL}", "proxies": {"http": "http://me:sentinel@host/x"}, "revision": "main"}
    record = json.dumps(ToEditTransform(TransformersPrior("demo", model_init_kwargs=options)).provenance())
    assert SENTINEL not in record
    assert "sentinel@" not in record
    assert '"revision": "main"' in record


@pytest.mark.parametrize(
    "source",
    [
        "https://me:sentinel@host/rows.jsonl",
        breadth(f"https://host/{SENTINEL}.jsonl"),
        breadth(f"owner/x?token={SENTINEL}"),
    ],
)
def test_a_password_in_an_address_is_not_told(source):
    for arguments in (["score", source, "--prior", "demo"], ["score", "rows.txt", "--prior", source]):
        command = [sys.executable, "-m", "hf_toedit", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 2
        assert MASK in done.stderr
        assert SENTINEL not in done.stderr
        assert "sentinel@" not in done.stderr
