"""Dataset cards: what they say is true, what they show can be run, and no text of others runs in them.

python tests/test_card.py  # writes the golden card again
"""

from __future__ import annotations

import html
import json
import re
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from command_line import fail, run
from conftest import load_tokenizer
from datasets import ClassLabel, Dataset, DatasetDict, concatenate_datasets, load_dataset
from huggingface_hub import DatasetCard, HfApi, metadata_load
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from strategies import texts

from hf_toedit import SourceError, StaticPrior, ToEditTransform, TransformersPrior, revert, summarize
from hf_toedit.display import visible
from hf_toedit.files.sources import load_source
from hf_toedit.hub.commands import Home, reproduce_commands
from hf_toedit.hub.dataset_card import dataset_card, source_metadata, terms_of
from hf_toedit.hub.licences import Combined, Material, known_licence
from hf_toedit.hub.markdown import as_code, as_text, fenced, table
from hf_toedit.hub.merging import marker
from hf_toedit.hub.method import CITATION
from hf_toedit.hub.record_file import recorded_in
from hf_toedit.hub.records import EARLIER, edits_of, records_of
from hf_toedit.hub.source import Source
from hf_toedit.hub.tables import excerpt_of
from hf_toedit.priors.pretrained import DEMO_FOLDER

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests/cards/edited.md"
SETTINGS = {"threshold": 0.4, "exclude_target": True}
TEXTS = [
    "The default value is used when the option is not given on the command line.",
    "Return a copy of the string with leading and trailing whitespace removed.",
    "Return a new list containing all items from the iterable in ascending order.",
    "If the optional argument is given and true, the result is a list of strings instead of a list of tuples.",
]
LICENCES = {"source": ("org/name", "cc-by-4.0"), "prior": ("demo", "apache-2.0")}
TERMS = Combined(tuple(Material(role, name, known_licence(key)) for role, (name, key) in LICENCES.items()))
COMMIT = "c0ffee" + "0" * 34


@pytest.fixture(scope="module")
def transform(demo):
    return ToEditTransform(demo, **SETTINGS)


@pytest.fixture(scope="module")
def second(demo):
    return ToEditTransform(demo, **SETTINGS, generation=1, stats_column="again")


@pytest.fixture(scope="module")
def edited(transform):
    rows = Dataset.from_dict({"text": [*TEXTS, "", None], "source": ["web", "books|old"] * 3})
    return DatasetDict(train=rows.map(transform, batched=True), test=rows.select([1]).map(transform, batched=True))


def card_of(dataset, transform, source=None, home=None, **options):
    """A card; where the Hub would have to be asked for licences, with those of TERMS."""
    if source is not None and not source.is_local:
        options.setdefault("terms", TERMS)
    edits = edits_of(dataset, transform)
    return dataset_card(excerpt_of(dataset, edits), edits, source, home or Home(), **options)


def blocks(card, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)


def golden_card(dataset, transform):
    record = {**transform.provenance(), "versions": {"hf_toedit": "0.1.0", "python": "3.11.0"}}
    home = Home("me/edited", stats="stats.json", histogram="histogram.png")
    return card_of(dataset, record, Source("org/name", COMMIT, "small"), home)


def test_the_golden_card(edited, transform):
    card = golden_card(edited, transform)
    assert card == GOLDEN.read_text(encoding="utf-8"), "python tests/test_card.py writes it"


def test_the_figures_are_those_of_summarize(edited, transform):
    card = card_of(edited, transform)
    train, test = (summarize(edited[split]) for split in edited)
    for name, a, b in (
        ("rows", f"{train.num_rows} of 6", "1 of 1"),
        ("rows skipped", 2, 0),
        ("tokens", train.tokens.num_tokens, test.tokens.num_tokens),
        ("tokens changed", train.tokens.num_changed, test.tokens.num_changed),
        ("changed rate, of all tokens", f"{train.changed_rate:.4f}", f"{test.changed_rate:.4f}"),
        ("edits in `text`", train.tokens.num_changed, test.tokens.num_changed),
    ):
        assert f"| {name} | {a} | {b} |" in card
    assert "| `skipped:empty` | 1 | there is no text |" in card
    assert "| `skipped:null` | 1 | there is no value |" in card
    assert "here all of them" in card
    sampled = ToEditTransform("demo", threshold=0.9)
    rows = Dataset.from_dict({"text": TEXTS}).map(sampled, batched=True)
    assert "a uniform sample" in card_of(DatasetDict(train=rows), sampled)


def test_the_rows_of_each_source_add_up(edited, transform):
    rows = re.findall(
        r"^\| (web|books&#124;old) \| (\d+) \| (\d+) \| (\d+) \|", card_of(edited, transform), re.MULTILINE
    )
    both = concatenate_datasets([*edited.values()])
    for name, *numbers in rows:
        part = summarize(both.filter(lambda row, name=name: row["source"] == html.unescape(name)))
        assert [*map(int, numbers)] == [part.num_rows, part.tokens.num_tokens, part.tokens.num_changed]
    assert len(rows) == 2
    labels = edited.cast_column("source", ClassLabel(names=["books|old", "web"]))
    assert re.findall(r"^\| (?:web|books).*", card_of(labels, transform), re.MULTILINE) == re.findall(
        r"^\| (?:web|books).*", card_of(edited, transform), re.MULTILINE
    )
    assert "`source`" not in card_of(edited.remove_columns("source"), transform)


def test_ten_edits_are_shown_from_wherever_they_are(demo):
    transform = ToEditTransform(demo, **SETTINGS)
    rows = Dataset.from_dict({"text": TEXTS * 5}).map(transform, batched=True)
    for splits, expected in (({"a": 20}, 10), ({"a": 20, "b": 2}, 10), ({"a": 2, "b": 3}, 5)):
        dataset = DatasetDict({name: rows.select(range(number)) for name, number in splits.items()})
        card = card_of(dataset, transform)
        assert len(re.findall(r"^\| (?:a|b) \d+ text \|", card, re.MULTILINE)) == expected


def test_what_is_shown_can_be_run(edited, transform, folder):
    """Load, undo and repeat, as the card of a folder says, and the rows are the very same."""
    Dataset.from_dict({"text": [*TEXTS, "", None]}).to_json("texts.jsonl")
    options = ("--prior", "demo", "--threshold", 0.4, "--exclude-target", "--limit", 5)
    run("edit", "texts.jsonl", *options, "--out", "edited")
    card = (folder / "edited/README.md").read_text(encoding="utf-8")
    load, undo = blocks(card, "python")
    names = {}
    exec(load.replace('"ID"', '"edited"'), names)
    exec(undo, names)
    source = load_dataset("json", data_files="texts.jsonl", split="train[:5]")
    assert names["original"]["train"][:] == source[:]
    [command] = blocks(card, "sh")
    (folder / "toedit.json").write_bytes((folder / "edited/toedit.json").read_bytes())
    run(*shlex.split(command.replace("\\\n", " "))[1:])
    assert load_dataset("again")["train"][:] == names["dataset"]["train"][:]
    for name in ("data/train-00000-of-00001.parquet", "toedit.json", "stats.json", "histogram.png"):
        assert (folder / "again" / name).read_bytes() == (folder / "edited" / name).read_bytes(), name
    assert str(folder) not in card


def test_two_rounds_are_told_undone_and_repeated(folder):
    Dataset.from_dict({"text": TEXTS}).to_json("texts.jsonl")
    options = ("--prior", "demo", "--strategy", "random", "--rate", 0.3, "--distribution", "uniform")  # asks no model
    run("edit", "texts.jsonl", *options, "--out", "first")
    again = ("--generation", 1, "--stats-column", "again")
    run("edit", "first", *options, *again, "--out", "second")
    record = json.loads((folder / "second/toedit.json").read_text())
    [earlier] = record.pop(EARLIER)
    assert earlier == json.loads((folder / "first/toedit.json").read_text())
    card = (folder / "second/README.md").read_text(encoding="utf-8")
    assert card.index(earlier["fingerprint"]) < card.index(record["fingerprint"])
    assert "2 rounds of editing" in card
    load, undo = blocks(card, "python")
    names = {}
    exec(load.replace('"ID"', '"second"') + undo, names)
    assert names["original"]["train"][:] == Dataset.from_json("texts.jsonl")[:]
    for i, settings in enumerate(blocks(card, "yaml"), 1):
        (folder / f"edit-{i}.yaml").write_text(settings)
    for command in blocks(card, "sh")[0].replace("\\\n", " ").splitlines():
        run(*("texts.jsonl" if word == "SOURCE" else word for word in shlex.split(command)[1:]))
    assert load_dataset("again")["train"][:] == names["dataset"]["train"][:]


def test_save_tells_an_earlier_edit_if_it_is_given_and_its_fingerprint_if_not(edited, transform, second, folder):
    twice = edited.map(second, batched=True)
    second.save(twice, "known", earlier=transform)
    second.save(twice, "unknown")
    cards = [(folder / name / "README.md").read_text(encoding="utf-8") for name in ("known", "unknown")]
    for card in cards:
        assert card.index(transform.fingerprint) < card.index(second.fingerprint)
    assert "not available" not in cards[0]
    assert "The record of this edit was not available" in cards[1]
    assert "No command can repeat this: the record of an earlier edit is not available" in cards[1]
    assert recorded_in(Source.parse("known"))[0] == [transform.provenance(), second.provenance()]


def test_parts_with_edits_of_their_own_are_told_apart(edited, transform, demo):
    other = ToEditTransform(demo, **SETTINGS, seed=7)
    part = Dataset.from_dict({"text": TEXTS[:2], "source": ["web"] * 2}).map(other, batched=True)
    mixed = DatasetDict(train=concatenate_datasets([edited["train"], part]))
    card = card_of(mixed, [transform, other])
    assert "| rows | 6 of 8 |" in card
    assert "| rows | 2 of 8 |" in card
    assert "No command can repeat this: the rows come from parts that were edited separately" in card


def test_a_command_would_edit_rows_that_were_left_alone(edited, transform):
    others = edited["test"].remove_columns("toedit").add_column("toedit", [None]).cast(edited["test"].features)
    for part in DatasetDict(train=concatenate_datasets([edited["train"], others])), {**edited, "test": others}:
        assert "No command can repeat this: only some of the rows were edited." in card_of(DatasetDict(part), transform)


def test_a_row_that_changed_later_is_not_said_to_be_undone(edited, transform):
    changed = edited.map(lambda row: {"text": (row["text"] or "").upper()})
    card = card_of(changed, transform)
    assert "can't restore the originals" in card
    assert not [code for code in blocks(card, "python") if "revert" in code]
    assert "### Some edits" not in card
    renamed = edited.rename_column("text", "body")
    assert "can't restore the originals" in card_of(renamed, transform)


def test_a_patch_has_no_text_of_the_source(edited, transform):
    card = card_of(edited, transform, Source("org/name", COMMIT), Home("me/patch", is_patch=True))
    for text in TEXTS:
        assert not any(text[i : i + 12] in html.unescape(re.sub("<.*?>", "", card)) for i in range(len(text) - 12))
    assert "books" not in card
    assert "from hf_toedit import load_edited" in card
    assert 'load_edited("me/patch")' in card
    assert "sql" not in card
    assert "config" not in card.partition("###")[0]
    assert "## Edited with ToEdit: config `small`\n" in card_of(edited, transform, home=Home("me/x", "small", "small"))


@pytest.mark.parametrize("source", [None, Source("org/name", COMMIT), Source("/home/me/secret/texts.jsonl")])
def test_metadata_is_read_by_the_hubs_own_library(edited, transform, source, folder):
    metadata = {"language": ["en"], "language_creators": "found"}
    (folder / "README.md").write_text(card_of(edited, transform, source, metadata=metadata), encoding="utf-8")
    data = DatasetCard.load("README.md").data.to_dict()
    assert data == metadata_load("README.md")
    assert data["tags"] == ["toedit", "token-level-editing", "hf-toedit"]
    assert data.get("source_datasets") == (["org/name"] if source and not source.is_local else None)
    assert data["language_creators"] == ["found", "machine-generated"]
    assert data["license"] == ("cc-by-4.0" if source and not source.is_local else "unknown")
    assert "/home" not in (folder / "README.md").read_text()


def test_an_owner_keeps_license_and_text(edited, transform):
    owner = "---\nlicense: mit # mine\n---\n# Mine\n"
    card = card_of(edited, transform, existing=owner)
    assert "license: mit # mine\n" in card
    assert "# Mine\n" in card
    assert card_of(edited, transform, existing=card) == card
    named = {"license": "mit", "license_name": "x"}
    assert (
        DatasetCard(card_of(edited, transform, metadata={"license": "mit"})).data.to_dict().get("license_name") is None
    )
    assert DatasetCard(card_of(edited, transform, metadata=named)).data.to_dict()["license_name"] == "x"
    with pytest.raises(SourceError, match="markers are broken"):
        card_of(edited, transform, existing=owner + marker("end"))


def test_what_is_not_known_of_the_source_is_left_out(folder):
    assert source_metadata(None) == source_metadata(Source("texts.jsonl")) == {}
    for front in ("language: [en, 3]", "language: {a: b}", "language: [", "- a", "language: no", ""):
        (folder / "README.md").write_text(f"---\n{front}\n---\n")
        assert source_metadata(Source(str(folder))) == {}, front
    (folder / "README.md").write_text("---\nlanguage: en\nlanguage_creators: [found]\nlicense: mit\n---\n")
    assert source_metadata(Source(str(folder))) == {"language": "en", "language_creators": ["found"]}


def test_a_prior_is_linked_only_if_it_is_on_the_hub(edited, folder):
    (folder / "models").mkdir()
    (folder / "models/tiny").symlink_to(DEMO_FOLDER)
    for name in ("models/tiny", str(folder / "models/tiny"), "demo"):
        transform = ToEditTransform(TransformersPrior(name), **SETTINGS)
        card = card_of(edited, transform)
        assert "huggingface.co/models" not in card
        assert str(folder) not in card
        assert re.search(r"\| prior \| `(models/)?(tiny|demo)`", card)
    prior = StaticPrior(load_tokenizer("demo"), lambda ids, t: {int(ids[t]): 0.999, 300: 0.001})
    rows = Dataset.from_dict({"text": TEXTS}).map(ToEditTransform(prior), batched=True)
    card = card_of(DatasetDict(train=rows), ToEditTransform(prior))
    assert "can't prove which edit made them" in card
    assert "No command can repeat this: the prior was an object in Python" in card
    assert terms_of(None, records_of(ToEditTransform(prior))).metadata == {"license": "unknown"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chat_template": "{{ x }}"}, "chat template"),
        ({"same_tokenizer": True}, "tokenizer made the ids"),
        ({"prior_options": {"model_init_kwargs": {"a": 1}}}, "options that a command doesn't have"),
        ({"prior_class": "MyPrior"}, "an object in Python"),
    ],
)
def test_what_no_command_can_repeat_is_said(edited, transform, change, words):
    assert words in card_of(edited, {**transform.provenance(), **change})


def test_a_command_pins_prior_source_and_window(edited, transform):
    prior = {"prior": "org/prior", "prior_hub_id": "org/prior", "revision": COMMIT, "max_length": 64, "stride": 8}
    options = {"prior_options": {"dtype": "bfloat16", "trust_remote_code": True, "lazy": True}, "stats": "full"}
    record = {**transform.provenance(), **prior, **options, "prior_class": "VLLMPrior"}
    edits = edits_of(edited, record)
    command = reproduce_commands(edits, Source("org/name", "v1", "small"), Home()).replace("\\\n", "")
    assert shlex.split(command) == shlex.split(
        f"hf-toedit edit org/name@v1 --subset small --config toedit.json --prior org/prior --revision {COMMIT} "
        "--dtype bfloat16 --trust-remote-code --max-length 64 --stride 8 --engine vllm --stats full --out again"
    )
    assert f"[org/prior](https://huggingface.co/org/prior/tree/{COMMIT})" in card_of(edited, record, terms=TERMS)


def test_the_citation_is_that_of_the_project():
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["references"][0]
    said = dict(re.findall(r"^  (\w+) += \{(.*?)\}[,\n]", CITATION, re.MULTILINE | re.DOTALL))
    names = " and ".join(f"{name['family-names']}, {name['given-names']}" for name in paper["authors"])
    assert " ".join(said["author"].split()) == names
    assert said["pages"] == f"{paper['start']}--{paper['end']}"
    for name, key in (("title", "title"), ("booktitle", "collection-title"), ("volume", "volume"), ("year", "year")):
        assert said[name] == str(paper[key])
    assert said["url"] == paper["url"]


# Text of others.


class Tags(HTMLParser):
    """The tags and the text of some HTML."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, *attrs))

    def handle_data(self, data):
        self.text += data


def rendered(markdown):
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown)


HOSTILE = [
    "<script>alert(1)</script>",
    "![x](https://example.org/a.png)",
    "a | b | c",
    "`code` ``more`` \\` \\",
    "**bold** _it_ ~~gone~~ [link](javascript:alert(1)) <https://example.org>",
    "&lt; &#60; &amp;",
    "$x$ :smile: @me me@example.org www.example.org https://example.org",
    "<!-- hf-toedit:end -->",
    "line\n\n# heading\r\n- item\n\n---\n```\n",
    "\u202eabc\u202c שלום \x1b[31m\x00 \u2028",
    "{{ 7 * 7 }} {% raw %}",
]
hostile = st.one_of(st.sampled_from(HOSTILE), texts, st.text("<>`|\\*_[]()!#&;~-= ab\n", max_size=20))


@given(hostile)
def test_a_text_in_markdown_is_shown_and_nothing_else(text):
    shown = Tags(rendered(f"x {as_text(text)} y"))
    assert shown.tags == [("p",)]
    assert shown.text.split() == f"x {visible(text)} y".split()


@given(hostile)
def test_a_text_in_a_table_stays_in_its_cell(text):
    shown = Tags(rendered(table(["a", "b"], [[as_text(text), as_code(text)]])))
    assert {tag for tag, *_ in shown.tags} <= {"table", "thead", "tbody", "tr", "th", "td", "code"}
    assert sum(tag == "td" for tag, *_ in shown.tags) == 2
    assert "".join(shown.text.split()) == "".join(f"ab{visible(text) * 2}".split())


@given(st.one_of(hostile, st.text("`a\n", max_size=12)))
def test_a_block_of_code_ends_where_it_should(text):
    text = visible(text).replace("↵", "\n").strip("\n")
    shown = Tags(rendered(fenced(text, "yaml") + "\n\nbehind"))
    assert [tag for tag, *_ in shown.tags] == ["pre", "code", "p"]


def test_hostile_rows_names_and_settings_do_not_break_a_card(demo, folder):
    transform = ToEditTransform(demo, threshold=0.01, exclude_target=True, protect=["```\n<!-- hf-toedit:end -->\n"])
    rows = Dataset.from_dict({"te|xt`<b>": HOSTILE, "source": HOSTILE})
    transform.columns = ["te|xt`<b>"]
    edited = DatasetDict(train=rows.map(transform, batched=True))
    card = card_of(edited, transform, Source("/x/<script>|`.jsonl"), existing="# Mine\n")
    assert card_of(edited, transform, Source("/x/<script>|`.jsonl"), existing=card) == card
    shown = Tags(rendered(DatasetCard(card).text))
    allowed = {"h1", "h2", "h3", "p", "a", "table", "thead", "tbody", "tr", "th", "td", "code", "pre", "del", "ins"}
    assert {tag for tag, *_ in shown.tags} <= allowed | {"ul", "li", "em"}
    links = [dict(attributes)["href"] for tag, *attributes in shown.tags if tag == "a"]
    assert all(link.startswith(("https://", "toedit.json")) and "example.org" not in link for link in links)
    assert "script" in shown.text


def test_a_folder_is_read_anew_whatever_was_read_from_one_of_its_name(edited, transform, folder):
    for i, place in enumerate(["one/edited", "other/edited", "other/edited"]):
        part = DatasetDict({"train": edited["train"].select([i]), "a.b": edited["train"].select([i + 1])})
        shutil.rmtree(place, ignore_errors=True)
        transform.save(part, place)
        for read in load_source, load_dataset:
            assert {split: rows.to_list() for split, rows in read(f"./{place}").items()} == {
                split: rows.to_list() for split, rows in part.items()
            }


# On the Hub.


def test_a_folder_is_ready_for_the_hub(hub, folder, tmp_path):
    """From a dataset on the Hub to an edited one: the card names what it came from, and the Hub takes it as it is."""
    rows = Dataset.from_dict({"text": TEXTS})
    rows.to_parquet("train.parquet")
    front = "---\nlanguage: en\nlanguage_creators: found\nlicense: cc-by-4.0\n---\n"
    files = {"data/train-00000-of-00001.parquet": Path("train.parquet").read_bytes(), "README.md": front.encode()}
    hub.add("dataset", "org/texts", files)
    hub.add("model", "org/prior", DEMO_FOLDER)
    commit, commit_of_prior = HfApi().dataset_info("org/texts").sha, HfApi().model_info("org/prior").sha
    run("edit", "org/texts", "--prior", "org/prior", "--threshold", 0.4, "--exclude-target", "--out", "edited")
    record = json.loads(Path("edited/toedit.json").read_text())
    assert record["source"] == {"id": "org/texts", "revision": commit, "subset": None}
    card = DatasetCard.load("edited/README.md")
    card.validate()
    data = card.data.to_dict()
    assert data["source_datasets"] == ["org/texts"]
    assert (data["language"], data["language_creators"]) == ("en", ["found", "machine-generated"])
    assert data["license"] == "unknown"  # that of the prior
    assert f"[org/prior](https://huggingface.co/org/prior/tree/{commit_of_prior})" in card.text
    assert f"https://huggingface.co/datasets/org/texts/tree/{commit}" in card.text
    HfApi().create_repo("me/edited", repo_type="dataset")
    HfApi().upload_folder(repo_id="me/edited", folder_path="edited", repo_type="dataset")
    [edit] = edits_of(load_dataset("me/edited"), record)
    assert edit.stats["train"] == summarize(load_dataset("edited")["train"])
    edited = load_dataset("me/edited")["train"]
    assert edited[:] == load_dataset("edited")["train"][:]
    assert [*load_dataset("me/edited", split="train", streaming=True)] == edited.to_list()
    assert edited.map(revert)[:] == rows[:]
    [command] = blocks(card.text, "sh")
    Path("toedit.json").write_text(json.dumps(record))
    run(*shlex.split(command.replace("\\\n", " "))[1:])
    assert load_dataset("again")["train"][:] == edited[:]
    # a second round, on what was pushed: its toedit.json has the first one, and where that came from
    run("edit", "me/edited", "--prior", "demo", "--threshold", 0.4, "--stats-column", "again", "--out", "twice")
    twice = Path("twice/README.md").read_text()
    assert metadata_load("twice/README.md")["source_datasets"] == ["org/texts"]
    assert record["fingerprint"] in twice
    assert f"org/texts@{commit}" in twice


@pytest.mark.parametrize("source", ["org/name", {"id": 3}, {"id": "/home/me"}, {"id": "a) <b>"}, {}, None])
def test_what_is_not_a_source_is_not_told(edited, transform, folder, source):
    transform.save(edited, "saved")
    path = folder / "saved/toedit.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "source": source}))
    assert recorded_in(Source.parse("saved")) == ([{**transform.provenance(), "source": source}], None)


def test_conversations_and_ids_have_cards_too(demo, folder):
    chat = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), TEXTS, strict=False)]
    ids = [demo.tokenizer.encode(text).ids for text in TEXTS]
    rows = Dataset.from_dict({"messages": [chat] * 4}), Dataset.from_dict({"input_ids": ids, "labels": ids})
    for dataset, column, place in zip(
        rows, ("messages", "input_ids"), (r"messages&#91;1&#93;.content", "input&#95;ids"), strict=True
    ):
        transform = ToEditTransform(demo, **SETTINGS)
        edited = dataset.map(transform, batched=True)
        card = card_of(DatasetDict(train=edited.with_format("torch")), transform)
        assert f"| edits in `{column}` | {summarize(edited).tokens.num_changed} |" in card
        assert f"| train 0 {place} | " in card


FAULTS = [{"status": 500}, {"status": 403}, {"status": 404}, {"lost": True}]


@pytest.mark.parametrize("fault", [*FAULTS, {"status": 200, "body": b"\xff: ["}])
def test_a_hub_that_fails_keeps_no_card_from_being_written(hub, fault):
    hub.add("dataset", "org/texts", {"README.md": b"---\nlanguage: en\n---\n", "toedit.json": b"{}"})
    hub.fail("(GET|HEAD) .*/resolve/", **fault)
    assert source_metadata(Source("org/texts", "main")) == {}


@pytest.mark.parametrize("text", ["{}", "[" * 100_000], ids=["empty", "deep"])
def test_a_broken_record_of_the_source_is_one_clear_line(edited, transform, folder, text):
    transform.save(edited, "saved")
    (folder / "saved/toedit.json").write_text(text)
    line = fail("edit", "saved", "--prior", "demo", "--stats-column", "again", "--out", "out")
    assert "toedit.json of the source is not the record of an edit" in line


def main() -> None:
    transform = ToEditTransform("demo", **SETTINGS)
    rows = Dataset.from_dict({"text": [*TEXTS, "", None], "source": ["web", "books|old"] * 3})
    dataset = DatasetDict(train=rows.map(transform, batched=True), test=rows.select([1]).map(transform, batched=True))
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(golden_card(dataset, transform), encoding="utf-8")


if __name__ == "__main__":
    main()
