"""The examples run as they stand, offline, and show what they say they show."""

from __future__ import annotations

import ast
import json
import re
import runpy
from pathlib import Path

import pytest
from conftest import ROOT

import hf_toedit

EXAMPLES = ROOT / "examples"
SCRIPTS = {path.stem: path for path in EXAMPLES.glob("*.py")}
SHOWN = r"\[-.+-\]\{\+.+\+\}"  # what `show` prints of an edit
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


@pytest.fixture
def run(folder, capsys, monkeypatch):
    """Run an example as `python examples/NAME.py` does, in an empty folder: its globals, and what it printed."""
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")

    def run_it(name):
        found = runpy.run_path(str(SCRIPTS[name]), run_name="__main__")
        return found, capsys.readouterr().out

    return run_it


def code_of(path: Path) -> str:
    """The source of a script, or of a notebook's code cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return text
    cells = json.loads(text)["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


@pytest.mark.parametrize("path", [*SCRIPTS.values(), *NOTEBOOKS], ids=lambda path: path.name)
def test_they_use_public_names_only(path):
    modules = {
        (node.module, alias.name)
        for node in ast.walk(ast.parse(code_of(path)))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("hf_toedit")
        for alias in node.names
    }
    assert modules
    for module, name in modules:
        assert module == "hf_toedit"
        assert name in hf_toedit.__all__, name


@pytest.mark.parametrize("path", SCRIPTS.values(), ids=lambda path: path.name)
def test_the_docstring_says_how_to_run_it_and_what_to_replace(path):
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert f"python examples/{path.name}" in text
    assert "For real use" in re.sub(r"\s+", " ", text)
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 70


def test_edit_and_look(run):
    found, out = run("edit_and_look")
    edited = found["edited"]
    assert {"edited", "unchanged"} == {row["status"] for row in edited["toedit"]}
    assert edited["text"] != found["texts"]
    assert "eligible" in out
    assert re.search(SHOWN, out)
    assert "num_rows" in out


def test_conversations(run):
    found, out = run("conversations")
    assert re.search(SHOWN, out)
    changed = [row["messages"] != before["messages"] for row, before in zip(found["edited"], found["ds"], strict=True)]
    assert any(changed)
    for row in found["edited"]:
        assert row["messages"][-1]["content"].count("3.11") == 1  # protected


def test_own_prior(run):
    """Its probabilities sum to one, and what it names as likeliest is."""
    import numpy as np

    found, _ = run("own_prior")
    prior = found["prior"]
    ids = np.array(prior.tokenizer.encode(found["texts"][0]).ids)
    (scores,) = prior.score([hf_toedit.ScoreRequest(ids, np.array([1, 5, 9]))], prior.tokenizer.get_vocab_size())
    np.testing.assert_allclose(np.exp(scores.candidate_logprob_EK).sum(axis=1), 1)
    assert (np.diff(scores.candidate_logprob_EK, axis=1) <= 0).all()
    assert (scores.candidate_logprob_EK[scores.candidate_ids_EK == ids[[1, 5, 9], None]] == scores.logprob_E).all()
    assert hf_toedit.summarize(found["edited"]).tokens.num_changed


def test_compare_arms(run):
    found, out = run("compare_arms")
    assert found["num_changed"]["none"] == 0
    assert found["num_changed"]["random"] == found["num_changed"]["resample"] > 0
    assert found["perplexity"]["none"] < found["perplexity"]["resample"] < found["perplexity"]["random"]
    assert len(out.splitlines()) == 1 + len(found["arms"])


def test_sft_lora(run):
    pytest.importorskip("trl", reason="needs the extra `train`")
    pytest.importorskip("peft", reason="needs the extra `train`")
    found, out = run("sft_lora")
    logs = [log for log in found["trainer"].state.log_history if "toedit/changed_rate" in log]
    assert len(logs) == 3
    assert all(log["toedit/changed_rate"] > 0 for log in logs)
    assert all(log["toedit/editable_rate"] < 1 for log in logs)  # prompts are context
    assert len(out.splitlines()) >= 4


def test_continued_pretraining(run):
    pytest.importorskip("trl", reason="needs the extra `train`")
    found, _ = run("continued_pretraining")
    assert found["changed_rate"]["source"] == 0 < found["changed_rate"]["edited"]
    assert found["loss"]["source"] != found["loss"]["edited"]


def test_on_vllm_calls_what_is_there():
    """It runs in tests/on_vllm; here each keyword of its calls is one that the class has."""
    import inspect

    calls = [node for node in ast.walk(ast.parse(code_of(SCRIPTS["on_vllm"]))) if isinstance(node, ast.Call)]
    names = {node.func.id: node for node in calls if isinstance(node.func, ast.Name)}
    call = names["VLLMPrior"]
    inspect.signature(hf_toedit.VLLMPrior).bind(*call.args, **{word.arg: word.value for word in call.keywords})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_run_and_hold_no_outputs(path, folder):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert cells
    names: dict[str, object] = {}
    for cell in cells:
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        exec(compile("".join(cell["source"]), f"{path.name}, {cell['id']}", "exec"), names)
    assert names["edited"]["text"] != names["texts"]
    assert names["talks"][0]["messages"][0] == names["messages"][0]
    assert names["talks"][0]["messages"][1] != names["messages"][1]
