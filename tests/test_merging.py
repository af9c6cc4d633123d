"""A section and metadata of ours on a card that has an owner."""

from __future__ import annotations

import re

import pytest
import yaml
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import texts

from hf_toedit import SourceError
from hf_toedit.hub.merging import NOTE, marker, merged

START, END = marker("start"), marker("end")
SECTION = "## Edits\n\nOne in a hundred."
METADATA = {"license": "mit", "tags": ["toedit"], "source_datasets": ["org/name"]}
OWNER = """---
# what the owner wrote
license: cc-by-4.0   # theirs
tags:   # two
  - poems

  - "ours: no"
  # more to come
size_categories: [n<1K]
pretty_name: 'Poems: all of them'
---

# Poems

A text of the owner's.
"""
ADDED = OWNER.replace('  - "ours: no"\n', '  - "ours: no"\n  - toedit\n').replace(
    "of them'\n", "of them'\nsource_datasets:\n- org/name\n"
)


def marked(section):
    return f"{START}\n{NOTE}\n\n{section}\n\n{END}"


def data_of(card):
    return DatasetCard(card).data.to_dict()


def without_section(card):
    return re.sub(rf"{START}.*{END}\r?\n", "", card, flags=re.DOTALL)


def test_a_new_card_is_metadata_and_section():
    card = merged(None, SECTION, METADATA)
    assert card == merged("", SECTION, METADATA)
    assert card == (f"---\nlicense: mit\ntags:\n- toedit\nsource_datasets:\n- org/name\n---\n\n{marked(SECTION)}\n")
    assert data_of(card) == METADATA
    assert merged(None, SECTION, {}) == marked(SECTION) + "\n"


def test_everything_else_is_the_owners_and_keeps_its_bytes():
    card = merged(OWNER, SECTION, METADATA)
    assert card == f"{ADDED}\n{marked(SECTION)}\n"
    assert data_of(card)["license"] == "cc-by-4.0"


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_again_replaces_the_section_alone(newline, bom):
    owner = bom + OWNER.replace("\n", newline)
    once = merged(owner, SECTION, METADATA)
    assert merged(once, SECTION, METADATA) == once
    around = once.replace("# Poems", "# My poems") + f"{newline}More of the owner's.{newline}"
    twice = merged(around, "other\nlines", METADATA)
    assert twice == around.replace(
        marked(SECTION).replace("\n", newline), marked("other\nlines").replace("\n", newline)
    )
    assert twice.count("\n") - twice.count("\r\n") == (0 if newline == "\r\n" else twice.count("\n"))


def test_a_license_keeps_out_the_name_of_another():
    ours = {"license": "other", "license_name": "qwen", "license_link": "https://example.org"}
    assert data_of(merged(None, SECTION, ours)) == ours
    assert data_of(merged("---\nlicense: mit\n---\n", SECTION, ours)) == {"license": "mit"}
    assert data_of(merged("---\nlicense:\n---\n", SECTION, ours)) == ours


def test_what_describes_the_files_is_replaced():
    files = "configs: # theirs\n- config_name: default\n  data_files: x/*\n"
    old = f"---\n{files}# of the owner\ndataset_info:\n  splits: []\n---\n"
    ours = {
        "configs": [{"config_name": "a", "data_files": [{"split": "train", "path": "data/train-*"}]}],
        "dataset_info": {"features": [{"name": "text", "dtype": "string"}]},
    }
    card = merged(old, SECTION, ours)
    assert data_of(card) == ours
    assert "# of the owner" in card
    assert MetadataConfigs.from_dataset_card_data(DatasetCard(card).data)["a"]["data_files"][0]["split"] == "train"


def test_sections_of_several_names_do_not_meet():
    card = merged(merged(merged(OWNER, "a", {}, "p-99"), "b", {}), "c", {}, "p.9")
    assert card == merged(card, "b", {})
    again = merged(card, "d", {}, "p-99")
    assert again == card.replace("\na\n", "\nd\n")
    assert without_section(again).count("hf-toedit:start") == 2


BROKEN = [
    START,
    END,
    f"{END}\n{START}",
    f"{START}\n{END}\n{START}\n{END}",
    f"{START}\n{START}\n{END}",
    f"{START}\n<!-- hf-toedit:ende -->\n{END}",
    f"{START}\n{END} and more",
    f"> {START}\n{END}",
    f"{START}\n<!--hf-toedit: end-->",
    f"{START}\n{marker('end', 'a')}",
    f"{marker('start', 'a')}\n{marker('start', 'b')}\n{marker('end', 'b')}\n{marker('end', 'a')}",
]


@pytest.mark.parametrize("body", BROKEN)
def test_broken_markers_are_one_clear_line(body):
    with pytest.raises(SourceError, match="markers are broken: leave one line") as error:
        merged(f"{OWNER}{body}\n", SECTION, METADATA)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "front",
    ["a: [", "a: 1\n b: 2", "- one\n- two", "just text", "a: \x00", "a: 2024-99-99", "a: !!python/name:os.system x"],
)
def test_broken_front_matter_is_one_clear_line(front):
    with pytest.raises(SourceError, match="front matter") as error:
        merged(f"---\n{front}\n---\nbody\n", SECTION, METADATA)
    assert "\n" not in str(error.value)


ODD = [
    "{license: apache-2.0, tags: [a, b]}",
    "tags: a",
    "tags: [a, b] # flow",
    "tags:\n- a\n-   b: 1",
    "tags: &x\n- a\nother: *x",
    "tags:\n- a\n...",
    "? tags\n: - a",
    "tags: []",
    "tags: null",
    "tags:\n- toedit",
    "tags:\n- |\n  a\n  # no comment\nafter: 1",
    '"tags":\n  - a\n\n\n# end',
    "# nothing but a comment",
    '{a: "\\x85 \\u2028", tags: [b]}',
    "",
]


@pytest.mark.parametrize("front", ODD)
def test_metadata_in_any_style_of_yaml(front):
    owner = yaml.safe_load(front) or {}
    card = merged(f"---\n{front}\n---\nbody", SECTION, METADATA)
    theirs = owner.get("tags") or []
    tags = theirs if isinstance(theirs, list) else [theirs]
    expected = {**METADATA, **owner, "tags": [*tags, *({"toedit"} - {*map(str, tags)})]}
    assert data_of(card) == {**expected, "source_datasets": ["org/name"]}
    assert merged(card, SECTION, METADATA) == card


keys = st.sampled_from(["license", "tags", "language", "configs", "source_datasets", "a key", "no"])
values = st.one_of(
    texts, st.lists(texts, max_size=3), st.integers(), st.none(), st.dictionaries(texts, st.booleans(), max_size=2)
)


bodies = st.lists(st.one_of(texts, st.sampled_from(["---", "# a", "```"])))


@given(st.dictionaries(keys, values, max_size=4), bodies, st.booleans())
@example({"language": "\x85"}, [], False)
@example({}, ["word\r"], False)
@example({}, ["\t"], False)
@example({}, ["\r"], False)
def test_no_card_loses_anything(front, lines, unicode):
    body = "\n".join(lines)
    owner = f"---\n{yaml.safe_dump(front, allow_unicode=unicode)}---\n{body}"
    front = yaml.safe_load(REGEX_YAML_BLOCK.match(owner)[2])
    if "hf-toedit:" in body:
        return
    card = merged(owner, SECTION, METADATA)
    found = REGEX_YAML_BLOCK.match(card)
    after = yaml.safe_load(found[2])
    kept = {key: value for key, value in front.items() if key not in METADATA}
    assert {key: value for key, value in after.items() if key not in METADATA} == kept
    assert card[found.end() :].startswith(body)
    assert without_section(card[found.end() :]).rstrip("\r\n") == body.rstrip("\r\n")
    assert merged(card, SECTION, METADATA) == card


@given(texts)
def test_a_section_can_hold_any_text(text):
    for section in (text, f"{text}\n{START}\n{text}\n{END}\n"):
        card = merged(OWNER, section, METADATA)
        assert without_section(card) == ADDED + "\n"
        assert merged(card, SECTION, METADATA) == merged(OWNER, SECTION, METADATA)
