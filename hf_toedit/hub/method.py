"""Token-level editing in words, for cards: what it does to a text, its paper, its tags."""

from __future__ import annotations

from collections.abc import Sequence

from ..editing.config import ToEditConfig
from ..editing.selection import LossSelection
from ..measure import citations

TAGS = ("toedit", "token-level-editing", "hf-toedit")
PAPER = "https://arxiv.org/abs/2412.14689"
MEANING = (
    "A language model, the prior, read each text; individual tokens were replaced or deleted, and the text around them "
    "was left as it was."
)
MEANING_WITHOUT_PRIOR = "Random tokens were replaced, and the text around them was left as it was."
CITATION = citations.TOEDIT


def meaning(configs: Sequence[ToEditConfig | None]) -> str:
    """What edits of these configurations are, for a reader who has never heard of them. None: it is not known."""
    is_asked = any(config is None or config.needs_prior for config in configs)
    return MEANING if is_asked else MEANING_WITHOUT_PRIOR


def what_it_does(config: ToEditConfig) -> str:
    """What an edit of this configuration does to a text, in one or two sentences."""
    bound = f"at {'least' if config.eligible == 'above' else 'most'} {config.threshold:g}"
    eligible = f"that the prior gives a probability of {bound}"
    but = "" if not config.exclude_target else ", other than themselves"
    candidates = f"the {config.top_k} likeliest candidates"
    if config.top_p is not None:
        candidates = f"the smallest set of {candidates} whose probability reaches {config.top_p:g}"
    temperature = f"at temperature {config.temperature:g}"
    resample = f"Tokens {eligible} are resampled from {candidates}{but}, {temperature}."
    below = [f"below {config.drop_below:g}"] if config.drop_below > 0 else []
    below += [f"above {config.drop_above:g}"] if config.drop_above < 1 else []
    drop = f"Tokens with a probability {' or '.join(below)} are deleted." if below else "No token is deleted."
    drawn = "the corpus's unigram distribution" if config.needs_corpus else "a uniform distribution over all tokens"
    if config.draws_from == "prior":
        of_prior = candidates.replace(f"the {config.top_k}", f"the prior's {config.top_k}")
        drawn = f"{of_prior}, other than itself, {temperature}"
    if config.strategy == "resample" and config.draws_from != "prior":
        where = "" if config.exclude_target else ", wherever resampling would change them"
        resample = f"As a control, tokens {eligible} are replaced by draws from {drawn}{where}."
    number = f"as many as would change if those {eligible} were resampled"
    if config.exclude_target:
        number = f"as many as there are {eligible}"
    random = f"As a control, tokens at random positions are replaced by draws from {drawn}: {number}."
    if config.rate is not None:
        random = (
            f"As a control, each editable token is replaced, with probability {config.rate:g}, by a draw from {drawn}."
        )
        random += "" if config.needs_prior else " Of the prior, only the tokenizer is used."
    sentences = {
        "resample": [resample],
        "drop": [drop],
        "resample_and_drop": [resample, drop],
        "random": [random],
        "none": ["As a control, nothing is edited."],
    }
    original = ["Only `input_ids` change: `labels` hold the original tokens."] if config.targets == "original" else []
    return " ".join([*sentences[config.strategy], *original])


def what_it_selects(selection: LossSelection) -> str:
    """What a selective loss leaves out, in a few sentences."""
    bounds = [f"below {selection.low:g}"] if selection.low is not None else []
    bounds += [f"of at least {selection.high:g}"] if selection.high is not None else []
    sentences = ["No token is changed."]
    if bounds:
        source = f" (truncated cross-entropy, {_arxiv('2509.08972')})" if bounds[0].startswith("of") else ""
        left_out = f"Tokens that the prior gives a probability {' or '.join(bounds)} are left out of the loss"
        sentences.append(f"{left_out}{source}.")
    excess = "log p(prior) - log p(base)"
    if selection.share is not None:
        kept = f"Of each row, only the {selection.share:.4g} of tokens with the largest {excess} stay in the loss"
        sentences.append(f"{kept} (as in Rho-1, {_arxiv('2404.07965')}).")
    if selection.min_excess is not None:
        sentences.append(f"Tokens whose {excess} is below {selection.min_excess:g} are left out of the loss.")
    return " ".join(sentences)


def _arxiv(number: str) -> str:
    return f"[arXiv {number}](https://arxiv.org/abs/{number})"
