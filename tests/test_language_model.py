"""Language models as a setting, and the loop that trains them: against plain loops, by hand, and killed on the way."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import made
import numpy as np
import pytest
import torch
from conftest import NUM_IDS, breadth
from datasets import Dataset, concatenate_datasets
from scipy import stats
from tiny_training import tiny_model
from transformers import AutoModelForCausalLM, GenerationConfig, Trainer

from hf_toedit import ToEditConfig, ToEditTransform
from hf_toedit.collapse import (
    Accumulate,
    AccumulateSubsample,
    LanguageModel,
    Mixture,
    RecentModels,
    Replace,
    ToEdit,
    simulate,
    train_generations,
    train_runs,
)
from hf_toedit.collapse.generations import rng_of
from hf_toedit.collapse.language_model import MOST_SEED, TextSource
from hf_toedit.errors import ConfigError, SourceError
from hf_toedit.experiments import stage
from hf_toedit.experiments.recipe import Model
from hf_toedit.priors.pretrained import DEMO_FOLDER

TINY = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
}
TRAIN = {"learning_rate": 1e-2, "per_device_train_batch_size": 4, "max_steps": 4, "use_cpu": True}
N, DIED = 12, 77
WORKFLOWS = [Replace(), Accumulate(), AccumulateSubsample(), Mixture(0.5), RecentModels(2), ToEdit()]

pytestmark = pytest.mark.usefixtures("fast_collection")


def texts(start, stop):
    return Dataset.from_dict({"text": list(made.human_texts()[start:stop])})


@pytest.fixture(scope="module")
def setting():
    return LanguageModel(
        texts(0, 40),
        texts(40, 52),
        Model(config=TINY, tokenizer="demo"),
        train=TRAIN,
        edits=ToEditConfig(threshold=1 / NUM_IDS, exclude_target=True),
        contexts=made.human_texts()[60:65],
        block_size=64,
        max_new_tokens=24,
        batch_size=8,
    )


@pytest.fixture(scope="module")
def source():
    return TextSource(0, tiny_model().eval())


@pytest.fixture(scope="module")
def out(setting, tmp_path_factory):
    """Three generations of each workflow."""
    folder = tmp_path_factory.mktemp("generations")
    for workflow in WORKFLOWS:
        train_generations(setting, workflow, n=N, generations=3, out=folder)
    return folder


def rows_of(folder):
    return Dataset.load_from_disk(folder / "rows")


def weights_of(folder):
    return (folder / "model/model.safetensors").read_bytes()


# The setting.


def test_perplexity_is_that_of_a_plain_loop(setting, source):
    losses = []
    for text in setting.held_out["text"]:
        ids_T = torch.tensor(setting.tokenizer(text)["input_ids"])
        logprob_TV = source.model(ids_T[None]).logits[0, :-1].double().log_softmax(-1)
        losses += (-logprob_TV[torch.arange(len(ids_T) - 1), ids_T[1:]]).tolist()
    [perplexity] = setting.distance(source, source, source)["perplexity"]
    assert perplexity == pytest.approx(np.exp(np.mean(losses)), rel=1e-5)


def test_the_distance_of_next_tokens_is_that_of_one_context_at_a_time(setting, source):
    torch.manual_seed(1)
    other = TextSource(0, type(source.model)(source.model.config).eval())
    distances = []
    for text in setting.contexts:
        ids = torch.tensor([[setting.start_id, *setting.tokenizer(text, add_special_tokens=False)["input_ids"]]])
        one, two = (model.model(ids).logits[0, -1].detach().double().softmax(-1) for model in (source, other))
        distances.append(float((one - two).abs().sum()))
    measured = setting.distance(other, source, source)["next_token_l1"]
    assert measured == pytest.approx([np.mean(distances)], rel=1e-4)
    assert setting.distance(source, source, source)["next_token_l1"] == 0


def test_models_are_trained_on_each_token_of_each_row(setting):
    rows = setting.human[:9]
    packed = setting._packed(rows)
    ids, labels = (np.concatenate(packed[name]) for name in ("input_ids", "labels"))
    end = setting.tokenizer.eos_token_id
    wanted = [end]
    for text in rows["text"]:
        wanted += [*setting.tokenizer(text, add_special_tokens=False)["input_ids"], end]
    assert ids[labels != -100].tolist() == wanted
    assert (labels[labels != -100] == ids[labels != -100]).all()
    assert {len(block) for block in packed["input_ids"]} == {setting.block_size}
    assert len(ids) - len(wanted) < setting.block_size


def test_first_tokens_are_drawn_from_the_model_whatever_its_own_settings_say(setting):
    """As often as their probabilities say, by a chi-squared test over the tokens whose texts tell them apart."""
    torch.manual_seed(3)
    model = tiny_model()
    torch.nn.init.normal_(model.get_output_embeddings().weight, std=0.5)
    model.generation_config = GenerationConfig(do_sample=True, top_k=1, repetition_penalty=9.0, temperature=0.1)
    one = dataclasses.replace(setting, max_new_tokens=1, batch_size=1500)
    start, end = setting.start_id, setting.tokenizer.eos_token_id
    logits_V = model.eval()(torch.tensor([[start]])).logits[0, -1].double()
    logits_V[[*setting.tokenizer.all_special_ids]] = -torch.inf
    expected_V = logits_V.softmax(-1).detach().numpy() * 3000
    found = one.sample(TextSource(0, model), 3000, rng_of(0))["text"]
    tokens = {id: setting.tokenizer.decode([id]) for id in range(NUM_IDS)}
    clear = [id for id, text in tokens.items() if text.isascii() and expected_V[id] > 5 and id != end]
    counted = np.array([found.count(tokens[id]) for id in clear])
    assert len(clear) > 10
    assert counted.sum() > 500
    square = ((counted - expected_V[clear]) ** 2 / expected_V[clear]).sum()
    assert square < stats.chi2.isf(1e-3, len(clear))


def test_rows_are_never_empty_or_lost_and_equal_seeds_give_equal_rows(setting, source):
    short = dataclasses.replace(setting, max_new_tokens=1)
    found = short.sample(source, 50, rng_of(0))["text"]
    assert len(found) == 50
    assert all(found)
    assert found == short.sample(source, 50, rng_of(0))["text"]
    assert found != short.sample(source, 50, rng_of(1))["text"]


def test_a_fixed_length_fixes_the_tokens(setting, source):
    fixed = dataclasses.replace(setting, min_new_tokens=9, max_new_tokens=9)
    prompts = fixed.starts([""] * 30)
    assert {len(ids) for ids in fixed._completions(source.model, prompts, 0)} == {9}


def test_a_low_temperature_takes_the_likeliest_token(setting, source):
    [text] = dataclasses.replace(setting, temperature=1e-6).sample(source, 1, rng_of(0))["text"]
    cold = dataclasses.replace(setting, temperature=1e-6).sample(source, 5, rng_of(9))["text"]
    assert set(cold) == {text}
    assert len(set(setting.sample(source, 5, rng_of(9))["text"])) == 5


def test_rows_can_begin_with_human_words(setting, source):
    found = dataclasses.replace(setting, prefix_tokens=5).sample(source, 20, rng_of(0))["text"]
    beginnings = {setting.tokenizer.decode(ids[:5]) for ids in setting.encode(setting.human["text"])}
    assert all(any(text.startswith(beginning) for beginning in beginnings) for text in found)


def test_human_rows_are_chosen_by_seed_without_copies(setting, source):
    human = TextSource(0)
    rows = setting.sample(human, 10, rng_of(0))
    assert len(set(rows["text"])) == 10
    assert rows.data.table.column("text").chunk(0).buffers()[2].address == (
        setting.human.data.table.column("text").chunk(0).buffers()[2].address
    )
    assert rows["text"] != setting.sample(human, 10, rng_of(1))["text"]


def test_training_starts_from_the_base_model_or_from_the_seed(setting):
    still = {**TRAIN, "learning_rate": 0.0}
    base = dataclasses.replace(setting, model=Model(id="demo"), train=still)
    trained = base.fit(setting.human, TextSource(5)).model.state_dict()
    demo = AutoModelForCausalLM.from_pretrained(DEMO_FOLDER, dtype=torch.float32).state_dict()
    assert all(torch.equal(trained[name], demo[name]) for name in demo)
    new = dataclasses.replace(setting, train=still)
    one, two, other = (new.fit(rows, TextSource(seed)).model.lm_head.weight for rows, seed in _starts(setting))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def _starts(setting):
    return [(setting.human, 5), (setting.held_out, 5), (setting.human, 6)]


def test_pooling_all_rows_and_fitting_is_fitting_all_rows(setting):
    whole = setting.fit(concatenate_datasets([setting.human, setting.held_out]), TextSource(1)).model.state_dict()
    parts = setting.fit(setting.pool([setting.human, setting.held_out]), TextSource(1)).model.state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_training_leaves_the_state_of_torch_alone(setting):
    before = torch.random.get_rng_state()
    setting.sample(setting.fit(setting.human, TextSource(1)), 3, rng_of(0))
    assert torch.equal(before, torch.random.get_rng_state())


BAD = [
    ({"block_size": 0}, "block_size=0 must be 1 or more"),
    ({"min_new_tokens": 30}, "min_new_tokens=30 is more than max_new_tokens=24: lower it"),
    ({"prefix_tokens": -1}, "prefix_tokens=-1 must be 0 or more"),
    ({"temperature": 0.0}, "temperature=0.0 must be a number above 0"),
    ({"temperature": float("inf")}, "temperature=inf must be a number above 0"),
    ({"held_out": Dataset.from_dict({"text": []})}, "held_out= has no rows"),
    ({"held_out": Dataset.from_dict({"text": ["", ""]})}, "column 'text' of held_out= has only empty texts"),
    ({"human": Dataset.from_dict({"text": ["a", None]})}, "column 'text' of human= has 1 rows without a text (null)"),
    ({"train": {"learning_rate": float("nan")}}, "train.learning_rate=nan must be a finite number"),
    ({"train": {"learning_rat": 1}}, "did you mean 'learning_rate'"),
    ({"train": {"seed": 1}}, "train.seed is set by the run: leave it out"),
    ({"train": {**TRAIN, "lr_scheduler_type": "steep"}}, "change it in the setting's train="),
]


@pytest.mark.parametrize(("fields", "message"), BAD)
def test_bad_settings_are_one_line(setting, fields, message):
    with pytest.raises(ConfigError) as error:
        dataclasses.replace(setting, **fields)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("workflow", "options", "message"),
    [
        (Replace(), {"n": 0}, "n=0 must be 1 or more"),
        (Replace(), {"generations": 0}, "generations=0 must be 1 or more"),
        (Replace(), {"seed": -1}, "seed=-1 must be 0 or more"),
        (Replace(), {"num_real": 41}, "is more than the 40 rows of human text"),
        (ToEdit(share=0.1), {}, "leave share out"),
    ],
)
def test_bad_runs_are_one_line(setting, workflow, options, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        train_generations(setting, workflow, **{"n": 3, "generations": 2, "out": tmp_path, **options})


def test_a_model_that_is_not_there_is_one_line_before_anything_is_written(setting, tmp_path):
    other = dataclasses.replace(setting, model=Model(id=str(tmp_path / "none")))
    with pytest.raises(ConfigError, match=r"can't load the tokenizer '.*none'"):
        train_generations(other, Replace(), n=3, generations=1, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# The loop.


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=repr)
def test_every_workflow_has_its_generations(workflow, setting, out):
    found = train_generations(setting, workflow, n=N, generations=3, out=out)  # reads what is there
    assert {len(value) for value in found.values()} == {3}
    later = N // 2 if isinstance(workflow, RecentModels) else N
    assert found["num_rows"].tolist() == [N, later, later]
    assert np.isfinite(found["perplexity"]).all()
    assert found["next_token_l1"][0] == 0
    assert (found["next_token_l1"][1:] > 0).all()
    edited = isinstance(workflow, ToEdit)
    assert ("changed_rate" in found) == edited
    if edited:
        assert np.isnan(found["changed_rate"][0])
        assert (found["changed_rate"][1:] > 0).all()


def test_workflows_share_the_first_generation(out):
    assert [path.name for path in out.glob("seed-0/generation-1")] == ["generation-1"]
    assert not list(out.glob("seed-0/*/generation-1"))


def test_models_are_those_of_the_workflow_by_hand(setting, out):
    """Generation 3 from the folders of the earlier ones: what each trains on."""
    root, truth = out / "seed-0", setting.truth(1, N, rng_of(0, 0, 0))
    real = rows_of(root / "generation-1")
    for name, rows in {
        "replace": lambda parts: parts[-1],
        "accumulate": lambda parts: concatenate_datasets([real, *parts]),
    }.items():
        parts = [rows_of(root / name / f"generation-{number}") for number in (2, 3)]
        model = setting.fit(rows(parts), truth).model.state_dict()
        saved = AutoModelForCausalLM.from_pretrained(root / name / "generation-3/model").state_dict()
        assert all(torch.equal(model[key], saved[key]) for key in model), name


def test_synthetic_rows_are_those_of_the_model_before(setting, out):
    root, truth = out / "seed-0", setting.truth(1, N, rng_of(0, 0, 0))
    for number, before in ((2, root / "generation-1"), (3, root / "replace/generation-2")):
        model = setting.load(before / "model", truth)
        again = setting.sample(model, N, rng_of(0, 0, number))
        assert again["text"] == rows_of(root / f"replace/generation-{number}")["text"]


@pytest.mark.parametrize("anew", [False, True])
def test_toedit_is_map_with_the_model_before(anew, setting, out):
    root, name = out / "seed-0", "toedit-anew=True" if anew else "toedit"
    real, before = rows_of(root / "generation-1"), root / "generation-1"
    train_generations(setting, ToEdit(anew=anew), n=N, generations=3, out=out)
    rows = real
    for number in (2, 3):
        rows = real if anew else rows
        model = AutoModelForCausalLM.from_pretrained(before / "model", dtype=torch.float32)
        seed = int(rng_of(0, 0, number).integers(MOST_SEED))
        transform = ToEditTransform((model, setting.tokenizer), dataclasses.replace(setting.edits, seed=seed))
        rows = rows.select_columns("text").map(transform, batched=True)
        before = root / name / f"generation-{number}"
        assert rows["text"] == rows_of(before)["text"]
        assert rows["toedit"] == rows_of(before)["toedit"]
        assert rows["text"] != real["text"]


def test_tables_have_a_run_for_each_seed_and_equal_seeds_give_equal_ones(setting, out, tmp_path):
    options = {"n": N, "generations": 2, "runs": 2}
    found = train_runs(setting, Replace(), **options, out=out)
    again = train_runs(setting, Replace(), **options, out=tmp_path)
    assert found.values_RG["perplexity"].shape == (2, 2)
    assert found.values_RG["perplexity"][0, 0] != found.values_RG["perplexity"][1, 0]
    assert found.table().equals(again.table())


@pytest.mark.parametrize("workflow", [AccumulateSubsample(), ToEdit()], ids=repr)
def test_a_simulation_in_memory_has_the_same_measures(workflow, setting, out):
    simulated = simulate(setting, workflow, n=N, generations=3, runs=1).values_RG
    trained = train_generations(setting, workflow, n=N, generations=3, out=out)
    for measure, values_RG in simulated.items():
        assert values_RG.tolist() == [trained[measure].tolist()]


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"setting": {"temperature": 0.9}}, "temperature"),
        ({"setting": {"held_out": texts(41, 50), "block_size": 32}}, "block_size, held_out"),
        ({"setting": {"train": {**TRAIN, "max_steps": 5}}}, "train"),
        ({"n": N + 1, "num_real": N}, "n"),
        ({"num_real": N + 1}, "num_real"),
    ],
)
def test_a_folder_with_other_settings_is_refused_and_kept(changes, differs, setting, out):
    other = dataclasses.replace(setting, **changes.pop("setting", {}))
    before = weights_of(out / "seed-0/generation-1")
    with pytest.raises(SourceError, match=rf"was made with other settings \({differs}\): give another folder"):
        train_generations(other, Replace(), **{"n": N, "generations": 3, "out": out, **changes})
    assert weights_of(out / "seed-0/generation-1") == before


DAMAGES = {
    "model/model.safetensors": lambda path: os.truncate(path, 1000),
    "model/config.json": lambda path: path.write_text("{"),
    "rows": shutil.rmtree,
    "rows/data-00000-of-00001.arrow": lambda path: os.truncate(path, 100),
    "metrics.json": lambda path: path.write_text('{"perplexity": "x"}'),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_generation_is_one_line_and_trained_again_once_removed(name, setting, out, tmp_path):
    shutil.copytree(out / "seed-0/generation-1", tmp_path / "seed-0/generation-1")
    folder = tmp_path / "seed-0/generation-1"
    DAMAGES[name](folder / name)
    with pytest.raises(SourceError) as error:
        train_generations(setting, Accumulate(), n=N, generations=2, out=tmp_path)
    assert f"remove the folder {str(folder)!r} to" in str(error.value)
    assert "\n" not in str(error.value)
    shutil.rmtree(folder)
    train_generations(setting, Accumulate(), n=N, generations=2, out=tmp_path)
    assert weights_of(tmp_path / "seed-0/accumulate/generation-2") == weights_of(out / "seed-0/accumulate/generation-2")


def test_a_folder_that_cannot_be_made_is_one_line(setting, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match=r"can't write to .*file'"):
        train_generations(setting, Replace(), n=3, generations=1, out=tmp_path / "file")


def test_a_folder_that_no_run_made_is_refused(setting, tmp_path):
    (tmp_path / "seed-0/generation-1").mkdir(parents=True)
    with pytest.raises(SourceError, match="was not created by a run"):
        train_generations(setting, Replace(), n=3, generations=2, out=tmp_path)


def after_sampling(monkeypatch):
    number = iter(range(100))
    fit = LanguageModel.fit

    def dies(*arguments):
        if next(number) == 1:  # of generation 2
            os._exit(DIED)
        return fit(*arguments)

    monkeypatch.setattr(LanguageModel, "fit", dies)


def in_mid_training(monkeypatch):
    number = iter(range(100))
    step = Trainer.training_step

    def dies(*arguments, **options):
        if next(number) == TRAIN["max_steps"] + 2:
            os._exit(DIED)
        return step(*arguments, **options)

    monkeypatch.setattr(Trainer, "training_step", dies)


def before_the_rename(monkeypatch):
    perform = stage._perform

    def dies(one, folder, work, old):
        if one.name == "generation-2":
            monkeypatch.setattr(Path, "rename", lambda *_: os._exit(DIED))
        return perform(one, folder, work, old)

    monkeypatch.setattr(stage, "_perform", dies)


@pytest.mark.parametrize("dies_at", [after_sampling, in_mid_training, before_the_rename])
@pytest.mark.parametrize("workflow", [Accumulate(), breadth(ToEdit())], ids=repr)
def test_a_killed_run_resumes_at_its_generation(dies_at, workflow, setting, out, tmp_path, monkeypatch):
    name, options = repr(workflow).partition("(")[0].lower(), {"n": N, "generations": 3, "out": tmp_path}
    pid = os.fork()
    if pid == 0:
        try:
            dies_at(monkeypatch)
            train_generations(setting, workflow, **options)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == DIED
    assert (tmp_path / "seed-0/generation-1").is_dir()
    assert not (tmp_path / f"seed-0/{name}/generation-2").exists()
    first = (tmp_path / "seed-0/generation-1/metrics.json").stat().st_mtime_ns
    train_generations(setting, workflow, **options)
    assert (tmp_path / "seed-0/generation-1/metrics.json").stat().st_mtime_ns == first
    for folder in ("generation-1", f"{name}/generation-2", f"{name}/generation-3"):
        one, other = out / "seed-0" / folder, tmp_path / "seed-0" / folder
        assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
        assert weights_of(one) == weights_of(other)
        assert (one / "rows/data-00000-of-00001.arrow").read_bytes() == (
            other / "rows/data-00000-of-00001.arrow"
        ).read_bytes()
        metrics = [json.loads((place / "metrics.json").read_text()) for place in (one, other)]
        assert len({json.dumps({**values, "seconds": 0}) for values in metrics}) == 1
