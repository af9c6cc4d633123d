"""Bad priors: missing and broken files, numbers that are none, a Hub out of reach: one line with the fix."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from strategies import PROSE, one_line, tokenizer_of

from hf_toedit import ConfigError, PriorError, StaticPrior, ToEditTransform, ToEditWarning, TransformersPrior
from hf_toedit.priors.pretrained import DEMO_FOLDER


def copy_of_demo(folder: Path, **files) -> str:
    """The demo prior's folder with some files replaced (bytes, text, JSON) or left out (None)."""
    for path in DEMO_FOLDER.iterdir():
        content = files.get(path.name.replace(".", "_"), path)
        if isinstance(content, Path):
            (folder / path.name).symlink_to(content)
        elif content is not None:
            data = content if isinstance(content, (str, bytes)) else json.dumps(content)
            (folder / path.name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(folder)


TOKENIZER = json.loads((DEMO_FOLDER / "tokenizer.json").read_text())
CONFIG = json.loads((DEMO_FOLDER / "config.json").read_text())
WEIGHTS = (DEMO_FOLDER / "model.safetensors").read_bytes()
BROKEN = {
    "no weights": {"model_safetensors": None},
    "no config": {"config_json": None},
    "no tokenizer": {"tokenizer_json": None},
    "no tokenizer at all": {"tokenizer_json": None, "tokenizer_config_json": None},
    "tokenizer cut off": {"tokenizer_json": '{"version": "1.0", "model": {'},
    "tokenizer empty": {"tokenizer_json": ""},
    "tokenizer binary": {"tokenizer_json": b"\xff\xfe\x00\x01"},
    "tokenizer a list": {"tokenizer_json": []},
    "tokenizer an empty object": {"tokenizer_json": {}},
    "tokenizer without model": {"tokenizer_json": {**TOKENIZER, "model": None}},
    "vocabulary a list": {"tokenizer_json": {**TOKENIZER, "model": {**TOKENIZER["model"], "vocab": ["a"]}}},
    "added tokens a number": {"tokenizer_json": {**TOKENIZER, "added_tokens": 3}},
    "merges unknown": {"tokenizer_json": {**TOKENIZER, "model": {**TOKENIZER["model"], "merges": [["qq", "zz"]]}}},
    "decoder unsupported": {"tokenizer_json": {**TOKENIZER, "decoder": None}},
    "tokenizer config a list": {"tokenizer_config_json": []},
    "config cut off": {"config_json": "{"},
    "config a list": {"config_json": []},
    "config empty": {"config_json": {}},
    "config of text": {"config_json": {**CONFIG, "hidden_size": "x"}},
    "config without heads": {"config_json": {**CONFIG, "num_attention_heads": 0}},
    "config of other shapes": {"config_json": {**CONFIG, "hidden_size": 96}},
    "config of another model": {"config_json": {**CONFIG, "model_type": "bert", "architectures": ["BertModel"]}},
    "unknown model": {"config_json": {**CONFIG, "model_type": "nonesuch"}},
    "weights empty": {"model_safetensors": b""},
    "weights garbage": {"model_safetensors": b"garbage " * 100},
    "weights cut off": {"model_safetensors": WEIGHTS[: len(WEIGHTS) // 2]},
    "weights none": {"model_safetensors": (2).to_bytes(8, "little") + b"{}"},
}
FIXES = ("save_pretrained", "a complete checkpoint", "use a prior whose")


@pytest.mark.parametrize("files", BROKEN.values(), ids=BROKEN)
def test_a_broken_prior_is_one_line_with_the_fix(files, tmp_path):
    with pytest.raises(PriorError) as error:
        ToEditTransform(copy_of_demo(tmp_path, **files), stats="full")({"text": PROSE})
    message = one_line(error)
    assert str(tmp_path) in message or "decoder" in message
    assert any(fix in message for fix in FIXES)


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(save_llama):
    with pytest.raises(PriorError, match="its own tokenizer") as error:
        ToEditTransform(save_llama(vocab_size=100), stats="full")({"text": PROSE})
    one_line(error)


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere", "a/b/c", __file__])
def test_a_path_that_is_no_folder_is_told(path):
    with pytest.raises(PriorError, match="give a folder, a Hub id or 'demo'") as error:
        ToEditTransform(path)
    one_line(error)


UNREACHABLE = """
import sys, time
time.sleep = lambda seconds: None  # huggingface_hub waits between its tries
from hf_toedit import PriorError, TransformersPrior
try:
    TransformersPrior("some-org/some-model")
except PriorError as error:
    print(error)
"""


@pytest.mark.parametrize("how", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}])
def test_a_hub_out_of_reach_is_one_clear_line(how, tmp_path, monkeypatch):
    for name, value in {"HF_HOME": str(tmp_path), **how}.items():
        monkeypatch.setenv(name, value)
    out = subprocess.run([sys.executable, "-c", UNREACHABLE], capture_output=True, text=True, timeout=100, check=True)
    [message] = out.stdout.splitlines()
    assert "'some-org/some-model' is neither a folder nor available on the Hub" in message
    assert "connection" in message


@pytest.fixture
def save_llama(tmp_path):
    """Saves a tiny random Llama with the demo prior's tokenizer."""

    def save(spoil=lambda model: None, vocab_size=None) -> str:
        from transformers import LlamaConfig, LlamaForCausalLM

        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocab_size or tokenizer_of("demo").get_vocab_size(), max_position_embeddings=256, **sizes
            )
        )
        spoil(model)
        model.save_pretrained(tmp_path)
        for path in DEMO_FOLDER.glob("tokenizer*.json"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
        return str(tmp_path)

    return save


def test_a_model_with_a_nan_weight_edits_nothing(save_llama):
    def spoil(model):
        model.lm_head.weight.data[5, 3] = math.nan

    texts = [PROSE, "Another text of some words, and some more."]
    transform = ToEditTransform(save_llama(spoil), threshold=0.0001, stats="full")
    with pytest.warns(ToEditWarning, match=r"skipped:nonfinite \(2 rows\): .* float32"):
        edited = transform({"text": texts})
    assert edited["text"] == texts
    assert {struct["status"] for struct in edited["toedit"]} == {"skipped:nonfinite"}


def test_a_prior_object_with_a_bad_window_is_told():
    with pytest.raises(ConfigError, match="max_length"):
        TransformersPrior("demo", max_length=0)
    tight = StaticPrior(tokenizer_of("demo"), lambda ids, t: {int(ids[t]): 0.995, 300: 0.005}, max_length=2)
    with pytest.raises(ConfigError, match="larger max_length"):
        ToEditTransform(tight)({"text": PROSE})
