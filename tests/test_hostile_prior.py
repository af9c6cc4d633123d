"""Priors made to do harm: files that are none, patterns without end, windows below zero. One line each."""

from __future__ import annotations

import json
import os

import pytest
from strategies import PROSE, one_line
from test_bad_prior import CONFIG, TOKENIZER, copy_of_demo
from tokenizers import Regex, Tokenizer, pre_tokenizers

from hf_toedit import ConfigError, PriorError, StaticPrior, ToEditTransform, TransformersPrior
from hf_toedit.priors.pretrained import DEMO_FOLDER

TOKENIZER_CONFIG = json.loads((DEMO_FOLDER / "tokenizer_config.json").read_text())
CHAT = {"messages": [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": PROSE}]}


@pytest.mark.parametrize("value", [-5, -1, 0, True, "12", 3.5, float("nan"), [1]])
def test_a_window_that_is_none_is_one_line(value, tmp_path):
    prior = copy_of_demo(tmp_path, config_json={**CONFIG, "max_position_embeddings": value})
    with pytest.raises(PriorError, match="max_position_embeddings") as error:
        ToEditTransform(prior, stats="full")({"text": PROSE})
    one_line(error)


def test_the_fix_for_a_window_works(tmp_path):
    folder = copy_of_demo(tmp_path, config_json={**CONFIG, "max_position_embeddings": -5})
    with pytest.raises(PriorError, match="set max_length"):
        ToEditTransform(folder)({"text": PROSE})
    row = ToEditTransform(TransformersPrior(folder, max_length=64), stats="full")({"text": PROSE})
    assert row["toedit"]["num_visited"] > 0


@pytest.mark.parametrize("value", [-5, 0, True, "12", 10**12])
def test_a_vocabulary_of_no_size_is_one_line(value, tmp_path):
    with pytest.raises(PriorError) as error:
        ToEditTransform(copy_of_demo(tmp_path, config_json={**CONFIG, "vocab_size": value}))({"text": PROSE})
    one_line(error)


@pytest.mark.parametrize("template", [3, True, ["a"], [3], {"default": 5}, [{"name": "default", "template": 7}]])
def test_a_chat_template_that_is_no_text_is_one_line(template, tmp_path):
    files = {"tokenizer_config_json": {**TOKENIZER_CONFIG, "chat_template": template}}
    with pytest.raises(PriorError) as error:
        ToEditTransform(copy_of_demo(tmp_path, **files))(CHAT)
    one_line(error)


def test_a_template_given_in_its_place_is_used(tmp_path):
    files = {"tokenizer_config_json": {**TOKENIZER_CONFIG, "chat_template": 3}}
    transform = ToEditTransform(copy_of_demo(tmp_path, **files), chat_template="", threshold=0.3, stats="full")
    assert transform(CHAT)["toedit"]["num_visited"] > 0


BOMB = r"([a-zA-Z, ]+)+$"


def test_a_pattern_without_end_is_one_line(tmp_path, capfd):
    split = {"type": "Split", "pattern": {"Regex": BOMB}, "behavior": "Isolated", "invert": False}
    steps = {"type": "Sequence", "pretokenizers": [split, TOKENIZER["pre_tokenizer"]]}
    folder = copy_of_demo(tmp_path, tokenizer_json={**TOKENIZER, "pre_tokenizer": steps})
    with pytest.raises(PriorError, match="tokenizer broke down on a text") as error:
        ToEditTransform(folder)({"text": PROSE})
    assert "fox" not in one_line(error)
    assert "panicked" in capfd.readouterr().err  # Rust's own words, which can't be held back


def test_a_pattern_without_end_in_a_tokenizer_in_memory_is_one_line():
    tokenizer = Tokenizer.from_file(str(DEMO_FOLDER / "tokenizer.json"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(BOMB), "isolated"), tokenizer.pre_tokenizer]
    )
    prior = StaticPrior(tokenizer, lambda ids, t: {int(ids[t]): 0.9})
    ids = Tokenizer.from_file(str(DEMO_FOLDER / "tokenizer.json")).encode(PROSE).ids
    for row in ({"text": PROSE}, {"text": [PROSE, PROSE]}, {"input_ids": [ids]}):
        with pytest.raises(PriorError, match="tokenizer broke down"):
            ToEditTransform(prior)(row)


def test_an_interrupt_is_no_panic(monkeypatch):
    """Ctrl-C derives from BaseException too."""
    transform = ToEditTransform(
        StaticPrior(Tokenizer.from_file(str(DEMO_FOLDER / "tokenizer.json")), lambda ids, t: {})
    )
    tokenization = transform.editor.tokenization

    class Interrupted:
        def encode_batch_fast(self, *args, **kwargs):
            raise KeyboardInterrupt

    monkeypatch.setattr(tokenization, "tokenizer", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        tokenization.encode([PROSE])


def directory(path):
    path.mkdir()


def dangling_link(path):
    path.symlink_to("nowhere")


def loop(path):
    path.symlink_to(path.name)


def pipe(path):
    os.mkfifo(path)


def endless_device(path):
    path.symlink_to("/dev/zero")


def read_error(path):
    path.symlink_to("/proc/self/mem")


def huge(path):
    with path.open("wb") as file:
        file.truncate(10**10)  # a hole: it takes no space


@pytest.mark.parametrize("make", [directory, dangling_link, loop, pipe, endless_device, read_error, huge])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"])
def test_a_file_that_is_none_is_one_line_at_once(make, name, tmp_path):
    if make is huge and name == "model.safetensors":
        pytest.skip("weights may have 10 GB")
    copy_of_demo(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    make(tmp_path / name)
    with pytest.raises(PriorError, match=r"save_pretrained|too many for") as error:
        ToEditTransform(tmp_path)
    assert str(tmp_path) in one_line(error)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_can_not_be_read_is_one_line(tmp_path):
    copy_of_demo(tmp_path, config_json=CONFIG)
    (tmp_path / "config.json").chmod(0)
    with pytest.raises(PriorError, match="save_pretrained") as error:
        ToEditTransform(tmp_path)
    one_line(error)


@pytest.mark.parametrize("path", ["x" * 300, "/" + "x" * 300, "a\0b", "./a\0b"])
def test_a_name_that_no_folder_can_have_is_one_line(path):
    with pytest.raises((PriorError, ConfigError)) as error:
        ToEditTransform(path)
    one_line(error)


def test_an_id_that_no_model_has_is_one_line(tmp_path):
    """A table with an entry for each id would not fit in memory."""
    vocabulary = {**TOKENIZER["model"]["vocab"], "zzz": 4_000_000_000}
    folder = copy_of_demo(tmp_path, tokenizer_json={**TOKENIZER, "model": {**TOKENIZER["model"], "vocab": vocabulary}})
    with pytest.raises(PriorError, match="ids up to 4,000,000,000") as error:
        ToEditTransform(folder)({"text": PROSE})
    one_line(error)
