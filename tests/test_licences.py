"""What licences ask of edited text and of models trained on it: the table, combinations, and where they come from."""

from __future__ import annotations

import re

import pytest
import yaml
from huggingface_hub import DatasetCard

from hf_toedit.hub import licences
from hf_toedit.hub.licences import (
    ADVICE,
    ASKS,
    Combined,
    Material,
    all_licences,
    known_licence,
    licence_of_dataset,
    licence_of_model,
    prior_material,
    source_material,
)
from hf_toedit.hub.source import Source
from hf_toedit.priors.pretrained import DEMO_FOLDER

TABLE = {licence.key: licence for licence in all_licences()}
CITATION = re.compile(r" \(\[[^\]]+\]\(https://\S+\), [^()]*(\([^()]*\)[^()]*)*\)\.$")

# What follows from the names and the nature of licences, written down without a look at the table.
NO_DERIVATIVES = {"cc-by-nd-4.0", "cc-by-nc-nd-4.0"}
NON_COMMERCIAL = {"qwen-research", "tongyi-qianwen-research", "mrl", "opt-175b"} | {k for k in TABLE if "-nc" in k}
COPYLEFT = {"gfdl", "gpl-2.0", "gpl-3.0", "odbl", "odc-by", "cdla-sharing-1.0"} | {k for k in TABLE if "-sa-" in k}
NO_TRAINING = {"llama2", "llama3", "tongyi-qianwen", "tongyi-qianwen-research", "openai-terms"}
LLAMA_NAMES = {"llama3": "Llama 3", "llama3.1": "Llama", "llama3.2": "Llama", "llama3.3": "Llama", "llama4": "Llama"}
DERIVATIVES = {"gemma", "deepseek", "bigscience-openrail-m", "creativeml-openrail-m"}
UNREAD = {"openrail", "bigscience-bloom-rail-1.0", "falcon-llm-license"}
# Licences that bind what a model under them writes, or models trained on that; the rest asks for credit at most.
BINDING = NON_COMMERCIAL | NO_TRAINING | {*LLAMA_NAMES} | DERIVATIVES | UNREAD | {"qwen"}
ON_THE_HUB = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl
lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0
openmdw-1.1 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma
"""  # https://huggingface.co/docs/hub/repositories-licenses
HUB_IDS = {*ON_THE_HUB.split()}


def put(source, *priors):
    """The combination of licences, by their keys."""
    return Combined(
        (
            Material("source", "org/data", source and known_licence(source)),
            *(Material("prior", f"org/model{i}", prior and known_licence(prior)) for i, prior in enumerate(priors)),
        )
    )


# the table


@pytest.mark.parametrize("licence", TABLE.values(), ids=TABLE)
def test_each_line_says_where_the_term_stands(licence):
    assert licence.url.startswith("https://")
    assert licence.terms
    for term in licence.terms:
        assert term.of in ("source", "text", "models")
        assert term.asks in ASKS
        assert re.search(r"section|paragraph|condition|whole text|Attachment|What you cannot do", term.at)
        assert term.says.endswith(".")
        assert CITATION.search(licence.cited(term)), licence.cited(term)
        assert ("unverified" in licence.cited(term)) == (licence.key in UNREAD)
    assert bool(licence.read) == (licence.key not in UNREAD)
    for role in ("source", "prior"):
        assert Material(role, "", licence).terms


def test_ids_are_those_of_the_hub():
    assert {licence.id for licence in TABLE.values() if licence.name is None} <= HUB_IDS
    assert {licence.id for licence in TABLE.values() if licence.name is not None} == {"other"}
    for id in HUB_IDS:
        assert known_licence(id).id == id
        assert known_licence(id).terms == (TABLE[id].terms if id in TABLE else ())


def test_every_well_known_id_has_a_licence_of_the_table():
    table = licences._table()
    named = {*table.corrections.values()} | {key for ids in table.well_known.values() for key in ids.values()}
    assert named <= {*TABLE}


@pytest.mark.parametrize(
    ("declared", "key"),
    [
        (("apache-2.0",), "apache-2.0"),
        (("Apache-2.0",), "apache-2.0"),
        (("other", "qwen"), "qwen"),
        (("other", "tongyi-qianwen-license-agreement"), "tongyi-qianwen"),
        (("other", "Falcon LLM License"), "falcon-llm-license"),
        (("other", "my-own [x](javascript:1) <b>"), "my-own-x-javascript-1-b"),
        (("zlib",), "zlib"),
    ],
)
def test_what_a_card_declares(declared, key):
    assert known_licence(*declared).key == key
    assert known_licence(*declared).id in HUB_IDS | {"other"}


@pytest.mark.parametrize("declared", [("unknown",), ("other",), ("",), ("other", ""), ("other", "unknown"), ("---",)])
def test_a_card_that_says_nothing(declared):
    assert known_licence(*declared) is None


# combinations

SOURCES = [*TABLE, "zlib", "my-licence", None]


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_every_pair_has_what_follows_from_its_licences(source):
    for prior in SOURCES:
        terms = put(source, prior)
        text = terms.markdown
        known = {source, prior} <= {*TABLE} - UNREAD
        assert text.count(ADVICE) == 1
        assert ("unknown" in text) == (None in (source, prior))
        assert ("unverified" in text) == bool({source, prior} & (UNREAD | {"zlib", "my-licence"}))
        expected = False if source in NO_DERIVATIVES else True if known else None
        assert terms.may_be_shared is expected, (source, prior)
        assert any("patch" in line for line in terms.conflicts) == (source in NO_DERIVATIVES)
        limits = re.search(
            "non-commercial|commercial or production|research", " ".join((*terms.restrictions, *terms.of_models))
        )
        assert bool(limits) == bool({source, prior} & NON_COMMERCIAL), (source, prior)
        assert any("incompatible" in line for line in terms.conflicts) == (
            source in COPYLEFT and prior in BINDING and prior != source
        ), (source, prior)
        for line in (*terms.duties, *terms.restrictions, *terms.of_models):
            assert CITATION.search(line)
            assert f"- {line}\n" in text


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_every_pair_declares_a_licence_that_is_true(source):
    for prior in SOURCES:
        declared = put(source, prior).metadata
        if source is None or prior in (None, "zlib", "my-licence"):
            assert declared == {"license": "unknown"}
        elif prior in BINDING - {source}:
            assert declared["license"] == "other"
            assert declared["license_name"] == f"{source}-and-{prior}"
            assert declared["license_link"] == TABLE[prior].url
        else:
            assert declared.get("license_name", declared["license"]) == source
        assert declared["license"] in HUB_IDS | {"other", "unknown"}
        card = DatasetCard(f"---\n{yaml.safe_dump(declared)}---\n")
        assert card.data.to_dict() == declared


def test_models_trained_on_the_text():
    for prior in TABLE:
        lines = " ".join(put("mit", prior).of_models)
        assert ("must not be used to improve" in lines or "can't be used to improve" in lines) == (
            prior in NO_TRAINING - {"openai-terms"}
        )
        assert ("derivative of it" in lines or "Model Derivative" in lines) == (prior in DERIVATIVES)
        assert re.findall(r'name that begins with "([^"]+)"', lines) == list(filter(None, [LLAMA_NAMES.get(prior)]))
        displayed = re.findall(r'must display "([^"]+)"', lines)
        assert ("Built with Qwen" in displayed) == (prior in ("qwen", "qwen-research"))
        assert any("Llama" in words for words in displayed) == (prior in LLAMA_NAMES)
    assert not put("mit", "apache-2.0").of_models


def test_the_card_of_a_model_leaves_out_what_sharing_the_text_asks():
    terms = put("cc-by-nd-4.0", "llama3.1", None)
    assert all(f"- {line}\n" in terms.model_markdown for line in terms.of_models)
    assert not any(line in terms.model_markdown for line in (*terms.conflicts, *terms.restrictions, *terms.duties))
    assert "- Source `org/data`: [CC BY-ND 4.0]" in terms.model_markdown
    assert "- Prior `org/model1`: its licence is unknown." in terms.model_markdown
    assert terms.model_markdown.count(ADVICE) == 1


def test_two_priors_that_close_each_other_out():
    [line] = put("mit", "llama2", "tongyi-qianwen").conflicts
    assert "they may leave none" in line
    assert not put("mit", "llama2", "llama2").conflicts
    assert not put("mit", "llama2", "llama3.1").conflicts


def test_the_licence_of_both_is_declared_once():
    assert put("llama3.1", "llama3.1", "llama3.1").metadata == {"license": "llama3.1"}
    assert put("mit", "gemma", "llama4", "gemma").metadata["license_name"] == "mit-and-gemma-and-llama4"
    assert put("qwen", "apache-2.0").metadata == {
        "license": "other",
        "license_name": "qwen",
        "license_link": TABLE["qwen"].url,
    }


def test_several_sources():
    both = [Material("source", "org/data", known_licence(key)) for key in ("mit", "cc-by-4.0")]
    prior = Material("prior", "org/model", known_licence("apache-2.0"))
    assert Combined((*both, prior)).metadata["license_name"] == "mit-and-cc-by-4.0"
    assert Combined((*both, Material("source", "x.jsonl", None), prior)).metadata == {"license": "unknown"}
    assert Combined((prior,)).metadata == {"license": "unknown"}


# where licences come from


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("name", "key"),
    {
        "demo": "apache-2.0",
        "gpt2": "modified-mit-gpt-2",
        "meta-llama/Llama-2-7b-hf": "llama2",
        "meta-llama/Meta-Llama-3-8B": "llama3",
        "meta-llama/Meta-Llama-3.1-8B": "llama3.1",
        "meta-llama/Llama-3.1-8B-Instruct": "llama3.1",
        "meta-llama/Llama-3.2-1B": "llama3.2",
        "meta-llama/Llama-3.3-70B-Instruct": "llama3.3",
        "meta-llama/Llama-4-Scout-17B-16E": "llama4",
        "google/gemma-2-2b": "gemma",
        "google/gemma-4-E2B": "apache-2.0",
        "Qwen/Qwen2.5-0.5B": "apache-2.0",
        "qwen/qwen2.5-0.5b-instruct": "apache-2.0",
        "Qwen/Qwen2.5-3B": "qwen-research",
        "Qwen/Qwen2.5-32B": "apache-2.0",
        "Qwen/Qwen2.5-72B-Instruct": "qwen",
        "Qwen/Qwen-7B": "tongyi-qianwen",
        "Qwen/Qwen-1_8B": "tongyi-qianwen-research",
        "allenai/OLMo-2-0425-1B": "apache-2.0",
        "HuggingFaceTB/SmolLM2-135M": "apache-2.0",
        "EleutherAI/pythia-160m": "apache-2.0",
        "microsoft/Phi-3.5-mini-instruct": "mit",
        "facebook/opt-125m": "opt-175b",
        "mistralai/Mistral-7B-v0.3": "apache-2.0",
        "bigscience/bloom-560m": "bigscience-bloom-rail-1.0",
        "tiiuae/Falcon3-1B-Base": "falcon-llm-license",
    }.items(),
)
def test_well_known_models(name, key):
    assert licence_of_model(name) is TABLE[key]


@pytest.mark.usefixtures("offline")
def test_what_is_not_known_is_unknown():
    for name in ("me/my-model", "Qwen/Qwen9-1B", "meta-llama/Llama-Guard-3-1B", "", "a\0b", "x" * 5000, "../..", "a b"):
        assert licence_of_model(name) is None
    assert licence_of_dataset("me/my-data") is None
    assert licence_of_dataset("meta-llama/Llama-3.1-8B") is None
    assert licence_of_dataset("openai/gsm8k") is TABLE["mit"]
    unknown = Combined((source_material(None), prior_material("me/my-model", "me/my-model")))
    assert unknown.metadata == {"license": "unknown"}
    assert "- Source: its licence is unknown." in unknown.markdown
    assert "- Prior `me/my-model`: its licence is unknown." in unknown.markdown


def folder_with(path, card):
    path.mkdir(parents=True)
    if card is not None:
        (path / "README.md").write_bytes(card if isinstance(card, bytes) else card.encode())


@pytest.mark.usefixtures("offline")
def test_the_card_of_a_folder_has_the_first_word(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder_with(tmp_path / "Qwen/Qwen2.5-0.5B", "---\nlicense: llama3.1\n---\n# Mine\n")
    assert licence_of_model("Qwen/Qwen2.5-0.5B") is TABLE["llama3.1"]
    folder_with(tmp_path / "google/gemma-2-2b", None)
    assert licence_of_model("google/gemma-2-2b") is None  # a folder may hold anything
    folder_with(tmp_path / "own", "---\nlicense: other\nlicense_name: ours\nlicense_link: https://a.example/x\n---\n")
    assert licence_of_model("own").link == "[ours](https://a.example/x)"
    assert licence_of_model(str(DEMO_FOLDER)) is None
    (tmp_path / "texts.jsonl").write_text("{}")
    assert licence_of_dataset("texts.jsonl") is None


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "front",
    {
        "broken": "license: [mit",
        "list": "- license: mit",
        "number": "license: 3",
        "nothing": "license:",
        "several": "license: [mit, gemma]",
        "objects": "license: !!python/object/apply:os.system ['true']",
        "twice": "license: gemma\nlicense: mit",
        "bomb": BOMB + "license: mit",
        "link": "license: other\nlicense_link: https://a.example",
    }.values(),
)
def test_a_card_that_is_broken_or_hostile_leaves_it_unknown(tmp_path, front):
    folder_with(tmp_path / "model", f"---\n{front}\n---\n")
    assert licence_of_model(str(tmp_path / "model")) is None


def test_a_card_that_is_not_text_leaves_it_unknown(tmp_path):
    folder_with(tmp_path / "model", b"---\nlicense: mit\n---\n\xff")
    assert licence_of_model(str(tmp_path / "model")) is None


def test_a_card_brings_no_markup_into_ours(tmp_path):
    front = {"license": "other", "license_name": "](x) <script>`", "license_link": "javascript:alert(1)"}
    folder_with(tmp_path / "m", f"---\n{yaml.safe_dump(front)}---\n")
    text = Combined((source_material(Source("a`b\n<b>")), prior_material(str(tmp_path / "m")))).markdown
    assert "- Prior `m`: x-script, unverified." in text
    assert "- Source `ab <b>`: its licence is unknown." in text
    assert str(tmp_path) not in text


def test_the_card_on_the_hub(hub):
    hub.add("model", "me/mine", {"README.md": b"---\nlicense: gemma\n---\n"}, private=True)
    hub.add("model", "me/bare", {"README.md": b"# No metadata\n"})
    hub.add("dataset", "me/data", {"README.md": b"---\nlicense: cc-by-nd-4.0\n---\n"})
    hub.add("model", "Qwen/Qwen2.5-0.5B", {"README.md": b"---\nlicense: llama4\n---\n"})
    assert licence_of_model("me/mine") is TABLE["gemma"]
    assert licence_of_model("me/mine", token=hub.stranger) is None
    assert licence_of_model("me/bare") is None
    assert licence_of_model("me/absent") is None
    assert licence_of_model("Qwen/Qwen2.5-0.5B") is TABLE["llama4"]
    of_both = Combined((source_material(Source("me/data")), prior_material("me/mine", "me/mine")))
    assert of_both.may_be_shared is False
    assert of_both.materials[1] == Material("prior", "me/mine", TABLE["gemma"])


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 429, "headers": {"Retry-After": "100"}},
        {"status": 200, "body": "no JSON"},
        {"status": 200, "body": "[1]"},
        {"status": 200, "body": "{}"},
        {"status": 200, "body": '{"id": "a/b", "cardData": "text"}'},
        {"status": 200, "body": '{"id": "a/b", "cardData": {"license": {"x": 1}}}'},
        {"lost": True},
    ],
    ids=str,
)
def test_a_hub_that_fails_leaves_what_is_well_known(hub, fault):
    hub.fail("GET /api/models/", **fault)
    assert licence_of_model("google/gemma-2-2b") is TABLE["gemma"]
    assert licence_of_model("me/mine") is None
