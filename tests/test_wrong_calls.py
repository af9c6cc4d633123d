"""Wrong calls: each answers in one line with the call that was meant, and shows nothing of the rows."""

from __future__ import annotations

import inspect

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from strategies import one_line, tokenizer_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_toedit import (
    ScoreRequest,
    StaticPrior,
    ToEditCallback,
    ToEditConfig,
    ToEditError,
    ToEditTransform,
    TransformersPrior,
    VLLMPrior,
    VLLMServerPrior,
    revert,
    summarize,
)
from hf_toedit.arguments import OF_THE_CALLBACK, OF_THE_TRANSFORM
from hf_toedit.priors.pretrained import DEMO_FOLDER

SECRET = "Return True if the string is valid."
DS = Dataset.from_dict({"text": [SECRET, SECRET + " Or not.", "Nothing."], "id": [1, 2, 3]})
SPLITS = DatasetDict(train=DS)
S = TransformersPrior("demo")
T, C = ToEditTransform, ToEditCallback
NO_MAPPING = (
    "config must be a ToEditConfig or a dict of its fields, not {}: pass everything else by name, {}(prior, name=...)"
)
BARE = "a transform takes rows as dicts, not bare values: leave input_columns= out of map, and name the columns in "
BARE += "ToEditTransform(prior, columns=...)"
TABLE = "a transform takes rows as dicts, not as a table of pandas: ds.with_format(None).map(transform, batched=True)"
IN_MEMORY = "model= must be a Hub id or a folder, not LlamaForCausalLM: pass a model in memory together with its "
IN_MEMORY += "tokenizer, ToEditTransform((model, tokenizer))"
FOR_THE_PRIOR = "belongs to the prior: TransformersPrior(model, "
ANOTHER = ": give a Hub id, a folder, 'demo', a (model, tokenizer) pair or a Prior object"
DTYPES = "; known: auto, bfloat16, float16, float32, float64"


class NoWindow:
    tokenizer = tokenizer_of("demo")

    def score(self, requests, top_k):
        return []


def model():
    return AutoModelForCausalLM.from_pretrained(DEMO_FOLDER, dtype="float32")


def tokenizer():
    return AutoTokenizer.from_pretrained(DEMO_FOLDER)


def score(prior):
    return prior.score([ScoreRequest(np.array([1, 2, 3]), np.array([1, 2]))], 2)


def unknown(name, meant, place=""):
    return f"unknown keyword {name!r}; did you mean {meant!r}?" + (f" It belongs to {place}" if place else "")


PRIORS = [
    (lambda door: door(None), f"prior is None{ANOTHER}"),
    (lambda door: door(0.9), f"prior is a value of type float{ANOTHER}"),
    (lambda door: door(model()), "prior is a model (LlamaForCausalLM) without its tokenizer: {}((model, tokenizer))"),
    (
        lambda door: door(tokenizer()),
        "prior is a tokenizer (TokenizersBackend): give a model with it, {}((model, tokenizer)), or a Hub id",
    ),
    (
        lambda door: door(tokenizer_of("demo")),
        "prior is a tokenizer (Tokenizer): give a model with it, {}((model, tokenizer)), or a Hub id",
    ),
    (
        lambda door: door((tokenizer(), model())),
        "a prior in memory is a pair with the model first: {}((model, tokenizer))",
    ),
    (
        lambda door: door(TransformersPrior),
        "prior is the class TransformersPrior: pass an instance, TransformersPrior(...)",
    ),
    (
        lambda door: door(DS),
        "prior is a dataset (Dataset): pass it to map, ds.map(ToEditTransform(prior)), or to the trainer",
    ),
    (
        lambda door: door(SPLITS),
        "prior is a dataset (DatasetDict): pass it to map, ds.map(ToEditTransform(prior)), or to the trainer",
    ),
    (lambda door: door(ToEditConfig()), "prior is a ToEditConfig: the prior goes first, {}(prior, config)"),
    (lambda door: door(NoWindow()), "the prior (NoWindow) has no attribute 'max_length': see hf_toedit.Prior"),
    (lambda door: door(S, 0.9), NO_MAPPING.replace("{}", "float", 1)),
    (lambda door: door(S, "config.yaml"), NO_MAPPING.replace("{}", "str", 1)),
    (lambda door: door(S, ToEditConfig), NO_MAPPING.replace("{}", "type", 1)),
    (lambda door: door(S, {"treshold": 0.9}), unknown("treshold", "threshold")),
    (lambda door: door(S, threshold=99), "threshold=99 must be a number in (0, 1]; did you mean 0.99?"),
    (lambda door: door(S, threshold="0.9"), "threshold='0.9' must be a number in (0, 1]"),
    (lambda door: door(S, top_k="8"), "top_k='8' must be an integer of at least 2 (and below 2^64)"),
    (lambda door: door(S, seed=-1), "seed=-1 must be an integer of at least 0 (and below 2^64)"),
    (lambda door: door(S, device="cuda"), f"device= {FOR_THE_PRIOR}device=...)"),
    (lambda door: door(S, dtype="bf16"), f"dtype= {FOR_THE_PRIOR}dtype=...)"),
    (lambda door: door(S, max_length=512), f"max_length= {FOR_THE_PRIOR}max_length=...)"),
    (lambda door: door(S, url="http://x"), "url= belongs to the prior: VLLMServerPrior(model, url=...)"),
    (
        lambda door: door(S, devise="cuda"),
        unknown("devise", "device", "the prior: TransformersPrior(model, device=...)"),
    ),
    (lambda door: door(S, batch_size=8), "batch_size= belongs to map: ds.map({}(...), batch_size=...)"),
    (lambda door: door(S, num_proc=2), "num_proc= belongs to map: ds.map({}(...), num_proc=...)"),
    (lambda door: door(S, model="gpt2"), unknown("model", "prior")),
]
TRANSFORMS = [
    (lambda: T("base"), "prior='base' is the model in training: only ToEditCallback takes it"),
    (lambda: T(S, column="text"), unknown("column", "columns")),
    (lambda: T(S, role="user"), unknown("role", "roles")),
    (lambda: T(S, text_column="text"), unknown("text_column", "columns")),
    (lambda: T(S, tokenizer_name="gpt2"), unknown("tokenizer_name", "tokenizer")),
    (lambda: T(S, redraw=False), "redraw= belongs to ToEditCallback(redraw=...)"),
    (lambda: T(S, {"columns": "text"}), "columns= belongs to ToEditTransform, by name"),
    (lambda: T(S, columns=3), "columns= must be a name or a list of names, not int"),
    (lambda: T(S, columns=[]), "columns=[] edits nothing: name columns, or leave columns= out"),
    (lambda: T(S, roles=None), "roles= must be a name or a list of names, not NoneType"),
    (lambda: T(S, roles=[1]), "roles= must be a name or a list of names, not list"),
    (lambda: T(S, stats_column=3), "stats_column= must be the name of a new column, or None, not int"),
    (lambda: T(S, chat_template=3), "chat_template= must be a Jinja template, not int"),
    (
        lambda: T(S, tokenizer="gpt2"),
        "tokenizer= must be a tokenizer with a tokenizer.json, not str: pass what AutoTokenizer.from_pretrained(...) "
        "returns",
    ),
    (lambda: T(S)(DS), "a transform takes rows, not a dataset: ds.map(transform, batched=True)"),
    (lambda: T(S)(SPLITS), "a transform takes rows, not a dataset: ds.map(transform, batched=True)"),
    (lambda: T(S)(SECRET), BARE),
    (lambda: T(S)([{"text": SECRET}]), BARE),
    (lambda: DS.map(T(S), input_columns=["text"]), BARE),
    (lambda: DS.map(T(S), input_columns=["text", "id"], batched=True), BARE),
    (
        lambda: DS.map(T(S), with_indices=True),
        "a transform takes nothing but rows: leave with_indices= and with_rank= out of map",
    ),
    (
        lambda: DS.map(T(S), fn_kwargs={"threshold": 0.9}),
        "map's fn_kwargs= has no effect on a transform: ToEditTransform(prior, threshold=...)",
    ),
    (
        lambda: DS.map(T),
        "prior is a row: pass map an instance, ds.map(ToEditTransform(prior)), not the class",
    ),
    (lambda: DS.with_format("pandas").map(T(S), batched=True), TABLE),
    (lambda: DS.with_format("pandas").map(T(S)), TABLE),
    (lambda: T(S)(DS.to_pandas()), TABLE),
    (lambda: T(S).to_datatrove(batch_size=0), "batch_size=0 must be an integer of at least 1"),
    (
        lambda: ToEditConfig.from_dict([("threshold", 0.9)]),
        "a config is a mapping of fields, such as {'threshold': 0.95}, not list",
    ),
]
FIT = "fit takes a dataset, a dict of its splits, or rows as dicts, not {}: transform.fit(ds.with_format(None))"
REVERT = "can't revert a {}: give one row or a batch of rows as a dict, such as ds.with_format(None).map(revert)"
NO_NAME = "stats_column= must be the name of a column, not {}"
STRUCT = "can't revert a 'toedit' struct by itself: give the whole row, as ds.map(revert) does"
EDITED = DS.map(T(S, threshold=0.3), batched=True)
OF_ROWS = [
    *(
        (lambda corpus=corpus: T(S, strategy="random").fit(corpus), FIT.format(kind))
        for corpus, kind in (
            ([SECRET], "str"),
            (SECRET, "str"),
            (DS["text"], "str"),
            (DS[:], "str"),
            (DS[0], "str"),
            (DS.to_pandas(), "str"),
            (DS.with_format("arrow"), "Table"),
            (DS.with_format("pandas"), "DataFrame"),
            (None, "NoneType"),
        )
    ),
    (lambda: summarize(EDITED, EDITED[0]), NO_NAME.format("dict")),
    (lambda: summarize(EDITED, DS), NO_NAME.format("Dataset")),
    (
        lambda: summarize(T(S)),
        "summarize takes an edited dataset, its rows or its 'toedit' column, not ToEditTransform",
    ),
    (lambda: revert(EDITED[0], EDITED[0]), NO_NAME.format("dict")),
    (lambda: EDITED.map(revert, with_indices=True), NO_NAME.format("int")),
    (lambda: EDITED.map(revert, input_columns=["text", "toedit"]), NO_NAME.format("dict")),
    (lambda: EDITED.map(revert, input_columns=["toedit", "text"]), STRUCT),
    (lambda: revert(EDITED[0]["toedit"]), STRUCT),
    (lambda: revert(DatasetDict(train=EDITED)), REVERT.format("DatasetDict")),
    (lambda: T(S, threshold=0.3).save(EDITED, 3), "the folder to save to must be a path, not int"),
    (lambda: T(S, threshold=0.3).report(EDITED, 3), "the report must be a path, not int"),
    (lambda: T(S, threshold=0.3).write_model_card(EDITED, None), "the model's folder must be a path, not NoneType"),
    (
        lambda: T(S, threshold=0.3).write_model_card(EDITED[:2], "."),
        "write_model_card takes a Dataset or a DatasetDict, not dict",
    ),
    (lambda: T(S, beta=1.5), unknown("beta", "temperature")),
    (lambda: T(S, messages_column="chat"), unknown("messages_column", "columns")),
]
COMPARES = "share= and min_excess= compare the prior with a base model"
CALLBACKS = [
    (lambda: C(S, columns="text"), "columns= belongs to ToEditTransform(columns=...)"),
    (lambda: C(S, redrawn=True), unknown("redrawn", "redraw")),
    (
        lambda: C(S, corpus="texts.jsonl", distribution="unigram"),
        "corpus= must be rows with input_ids, such as a tokenized dataset, not str",
    ),
    (lambda: C(S, redraw="no"), "redraw= must be true or false, not str"),
    (lambda: C(S, select=0.99), "select= must be a LossSelection or a dict of its fields, {'high': 0.99}, not float"),
    (lambda: C(S, select={"hihg": 0.9}), "unknown field 'hihg' of LossSelection; did you mean 'high'?"),
    (lambda: C(S, select={"high": 99}), "high=99 must be a number in (0, 1]; did you mean 0.99?"),
    (lambda: C(S, select={"min_excess": 10**400}), f"min_excess={10**400} must be a number"),
    (lambda: C(S, select={}), "this keeps every token: set high=, such as 0.99, or another field of LossSelection"),
    (lambda: C(S, select={"share": 0.5}), f"{COMPARES}: set base= as well"),
    (
        lambda: C(S, base="self"),
        "base= is only compared with the prior for share= or min_excess=: set one, or leave it out",
    ),
]
OF_PRIORS = [
    (lambda: TransformersPrior(model()), IN_MEMORY),
    (lambda: VLLMPrior(model()), IN_MEMORY),
    (lambda: VLLMServerPrior(model(), "http://x"), IN_MEMORY),
    (
        lambda: VLLMServerPrior("demo", 8000),
        "url='8000' is not the address of a server: give one such as http://localhost:8000",
    ),
    (
        lambda: VLLMServerPrior("demo", "http://x", max_in_flight="8"),
        "max_in_flight='8' must be an integer of at least 1",
    ),
    (
        lambda: VLLMPrior("demo", engine=2),
        "engine= must be a dict of options of vllm.LLM, such as {'tensor_parallel_size': 2}",
    ),
    (lambda: VLLMPrior("demo", dtype="bloat16"), "dtype='bloat16' is unknown; did you mean 'bfloat16'?"),
    (lambda: TransformersPrior("demo", dtype="bfloat"), "dtype='bfloat' is unknown; did you mean 'bfloat16'?"),
    (lambda: TransformersPrior("demo", dtype=torch.int8), f"dtype='int8' is unknown{DTYPES}"),
    (lambda: TransformersPrior("demo", max_length="512"), "max_length='512' must be an integer of at least 1"),
    (lambda: TransformersPrior("demo", stride=1.5), "stride=1.5 must be an integer of at least 1"),
    (lambda: TransformersPrior("demo", batch_tokens=True), "batch_tokens=True must be an integer of at least 1"),
    (lambda: TransformersPrior("demo", revision=1), "revision= must be a branch, tag or commit, not int"),
    (
        lambda: TransformersPrior("demo", model_init_kwargs="eager"),
        "model_init_kwargs= must be a dict, such as {'attn_implementation': 'eager'}",
    ),
    (
        lambda: StaticPrior(S, None),
        "a StaticPrior takes a tokenizer and a function, not TransformersPrior and NoneType: "
        "StaticPrior(tokenizer, distribution)",
    ),
]
CALLS = [
    *(
        (lambda call=call, door=door: call(door), line.replace("{}", door.__name__))
        for call, line in PRIORS
        for door in (T, C)
    ),
    *TRANSFORMS,
    *OF_ROWS,
    *CALLBACKS,
    *OF_PRIORS,
]


@pytest.mark.parametrize(("call", "line"), CALLS, ids=[f"{i}-{line[:40]}" for i, (_, line) in enumerate(CALLS)])
def test_a_wrong_call_is_one_line_with_the_right_one(call, line):
    with pytest.raises(ToEditError) as error:
        call()
    assert one_line(error) == line
    assert not any(part in line for part in (SECRET, *SECRET.split(" is ")))


def test_a_device_that_is_not_there_is_one_line():
    with pytest.raises(ToEditError) as error:
        score(TransformersPrior("demo", device="gpu"))
    assert one_line(error).startswith("device='gpu' is not available: ")
    assert str(error.value).endswith("; give 'cpu', 'cuda', 'cuda:1', 'mps' or 'auto'")


def test_the_tables_of_keywords_are_the_signatures():
    for door, names in ((T, OF_THE_TRANSFORM), (C, OF_THE_CALLBACK)):
        assert [*inspect.signature(door).parameters] == ["prior", "config", *names, "config_fields"]


# what has a sensible meaning works


def edited(transform, rows=DS):
    """The edited rows, but for the fingerprints: those tell a model in memory from one in a folder."""
    datasets.disable_progress_bars()
    rows = rows.map(transform, batched=True).with_format(None)[:]
    return {**rows, "toedit": [{**struct, "fingerprint": None} for struct in rows["toedit"]]}


def test_a_model_with_its_tokenizer_is_the_prior_of_that_folder(folder):
    pair = T((model(), tokenizer()), threshold=0.3)
    assert edited(pair) == edited(T("demo", threshold=0.3))
    assert edited(pair)["text"] != edited(T("demo", threshold=1.0))["text"]
    hashes = [datasets.fingerprint.Hasher.hash(one) for one in (pair, T((model(), tokenizer()), threshold=0.3))]
    assert hashes[0] == hashes[1]  # a prior that was used is no other one to the cache of map
    assert C((model(), tokenizer())).prior.max_length == S.max_length


def test_a_dict_is_a_config_and_keywords_go_before_it():
    for door in (T, C):
        assert door(S, {"threshold": 0.3, "seed": 5}, seed=6).config == ToEditConfig(threshold=0.3, seed=6)
    assert (
        ToEditConfig(threshold=np.float32(0.5), seed=np.int64(3)).to_json()
        == ToEditConfig(threshold=0.5, seed=3).to_json()
    )


@pytest.mark.parametrize("given", ["bf16", "bfloat16", "torch.bfloat16", torch.bfloat16])
def test_a_dtype_has_several_names(given):
    assert TransformersPrior("demo", dtype=given).dtype == VLLMPrior("demo", dtype=given).dtype == "bfloat16"
    assert score(TransformersPrior("demo", dtype=given))[0].logprob_E != pytest.approx(score(S)[0].logprob_E, abs=1e-6)


def test_a_device_may_be_an_object():
    assert (
        score(TransformersPrior("demo", device=torch.device("cpu")))[0].logprob_E.tolist()
        == score(S)[0].logprob_E.tolist()
    )
    assert TransformersPrior("demo", device=1).device == "cuda:1"


def test_a_static_prior_takes_a_tokenizer_of_transformers():
    assert StaticPrior(tokenizer(), lambda ids, t: {}).tokenizer.to_str() == tokenizer_of("demo").to_str()


@pytest.mark.parametrize("kind", ["numpy", "torch", "arrow", None])
def test_formats_are_edited_alike(kind, folder):
    transform = T("demo", threshold=0.3)
    assert edited(transform, DS.with_format(kind)) == edited(transform)
