"""Measures on a sample of texts, each by the library that defines it: self-BLEU, the Vendi score, MAUVE.

They compare texts with each other, so they neither add up over rows nor merge over shards. Each takes a seeded sample
of bounded size instead; all its figures depend on the sample's size: compare figures of equal sizes.

Shape suffixes: N texts, D features.
"""

from __future__ import annotations

import bisect
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..errors import ConfigError, import_extra, nearest
from .features import features

SAMPLE_SIZE = 1000
TOKENIZERS = ("13a", "intl", "char", "zh", "none")  # those of sacrebleu that need no download
SMOOTHING = 0.1  # what stands in for a count of zero: Texygen's


def draw_sample(texts: Iterable[str], size: int = SAMPLE_SIZE, seed: int = 0) -> tuple[list[str], int]:
    """A uniform sample of at most `size` texts, without replacement, and how many texts there were to draw from.

    It reads the texts once and keeps `size` of them (reservoir sampling). Blank texts are left out. All texts are
    taken, in order, if there are no more than `size`.

    Raises ConfigError for anything but texts, and for a size below 1.
    """
    if isinstance(texts, (str, bytes)):
        raise ConfigError("texts must be a list of texts, not one text: give [text], or ds['text']")
    if size < 1:
        raise ConfigError(f"sample_size={size!r} must be an integer of at least 1")
    rng = np.random.default_rng(seed)
    kept: list[str] = []
    num_texts = 0
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise ConfigError(f"row {row} is of type {type(text).__name__}, not a text: give ds['text'] or the like")
        if not text.strip():
            continue
        num_texts += 1
        place = num_texts - 1 if num_texts <= size else int(rng.integers(num_texts))
        if num_texts <= size:
            kept.append(text)
        elif place < size:
            kept[place] = text
    return kept, num_texts


def self_bleu(
    texts: Iterable[str], *, max_order: int = 4, tokenize: str = "13a", sample_size: int = SAMPLE_SIZE, seed: int = 0
) -> dict[str, Any]:
    """How much the texts repeat each other: the mean BLEU of each text against all others (Zhu et al., 2018, Texygen).

    Equals, but in linear time:

        bleu = sacrebleu.BLEU(tokenize="13a", smooth_method="floor", effective_order=True)
        np.mean([bleu.sentence_score(texts[i], texts[:i] + texts[i + 1 :]).score / 100 for i in range(len(texts))])

    max_order: the longest n-grams that are compared.
    tokenize: a tokenizer of sacrebleu: 13a, intl, char, zh or none.
    sample_size, seed: see `draw_sample`.

    Between 0 and 1; higher is less diverse. NaN for fewer than two texts. It grows with the number of texts.
    """
    bleu = _bleu(tokenize, max_order)
    sample, num_texts = draw_sample(texts, sample_size, seed)
    lines = _tokenized(bleu, sample)
    scores = _leave_one_out(bleu, lines) if len(lines) > 1 else []
    figure = math.fsum(scores) / len(scores) / 100 if scores else math.nan
    return {"self_bleu": figure, "num_texts": num_texts, "num_sampled": len(lines)}


def _tokenized(bleu: Any, texts: Iterable[str]) -> list[str]:
    """The texts with blanks between their words; those without a word are left out."""
    return [line for text in texts if (line := bleu.tokenizer(text.rstrip()).strip())]


def _leave_one_out(bleu: Any, lines: Sequence[str]) -> list[float]:
    """BLEU of each tokenized line against all others.

    A line's references are all lines but itself. The largest count of an n-gram among them is its largest count of all,
    or, for the line that has that one, the second largest.
    """
    extract = import_extra("sacrebleu.metrics.helpers", "samples").extract_all_word_ngrams
    ngrams_of_lines, sizes = zip(*(extract(line, 1, bleu.max_ngram_order) for line in lines), strict=True)
    largest: dict[tuple[str, ...], tuple[int, int, int]] = {}  # of an n-gram: its count, the line, the next count
    for number, ngrams in enumerate(ngrams_of_lines):
        for ngram, count in ngrams.items():
            most, holder, second = largest.get(ngram, (0, -1, 0))
            largest[ngram] = (count, number, most) if count > most else (most, holder, max(second, count))
    in_order, scores = sorted(sizes), []
    for number, (ngrams, size) in enumerate(zip(ngrams_of_lines, sizes, strict=True)):
        correct, total = [0] * bleu.max_ngram_order, [0] * bleu.max_ngram_order
        for ngram, count in ngrams.items():
            most, holder, second = largest[ngram]
            total[len(ngram) - 1] += count
            correct[len(ngram) - 1] += min(count, second if holder == number else most)
        smoothing = {"smooth_method": bleu.smooth_method, "smooth_value": bleu.smooth_value, "effective_order": True}
        closest = _closest(in_order, size)
        found = bleu.compute_bleu(correct, total, size, closest, **smoothing, max_ngram_order=bleu.max_ngram_order)
        scores.append(found.score)
    return scores


def _closest(in_order: Sequence[int], size: int) -> int:
    """The size closest to this one among all others, the smaller of two. in_order: all sizes, this one among them."""
    at = bisect.bisect_left(in_order, size)
    others = [*in_order[max(0, at - 1) : at], *in_order[at + 1 : at + 2]]
    return min(others, key=lambda other: (abs(other - size), other))


def vendi_score(
    texts: Iterable[str],
    model: object = None,
    *,
    max_order: int = 4,
    tokenize: str = "13a",
    sample_size: int = SAMPLE_SIZE,
    seed: int = 0,
) -> dict[str, Any]:
    """The effective number of different texts (Friedman and Dieng, 2023): 1 if all are equal, N if none are alike.

    It is the exponential of the entropy of the eigenvalues of K / N, where K holds the similarity of each pair. By
    default that is the mean over n = 1, ..., max_order of the cosine between counts of n-grams, the paper's for texts,
    scaled to 1 for a text and itself. With a model it is the cosine between its features (see `features`).

    model: a folder, a Hub id, "demo", or a (model, tokenizer) pair; None for n-grams.
    max_order, tokenize: the n-grams, see `self_bleu`; without effect if there is a model.
    sample_size, seed: see `draw_sample`. Time grows with the cube of the size, memory with its square.

    `vendi_score` lies between 1 and the number of sampled texts; `vendi_share` divides it by that number. NaN for no
    text.
    """
    vendi = import_extra("vendi_score.vendi", "samples")
    bleu = _bleu(tokenize, max_order)
    sample, num_texts = draw_sample(texts, sample_size, seed)
    if model is None:
        K_NN = _ngram_similarity([line.split() for line in _tokenized(bleu, sample)], max_order)
    else:
        features_ND = features(sample, model)
        K_NN = features_ND @ features_ND.T
    figure, num_sampled = math.nan, len(K_NN)
    if num_sampled:
        with warnings.catch_warnings():  # vendi-score 0.0.3 looks for a sparse matrix in a module that scipy deprecates
            warnings.filterwarnings("ignore", "Please import .csr_matrix.", DeprecationWarning)
            figure = float(vendi.score_K(K_NN, normalize=True))
    share = figure / num_sampled if num_sampled else math.nan
    return {"vendi_score": figure, "vendi_share": share, "num_texts": num_texts, "num_sampled": num_sampled}


def _ngram_similarity(words_of_texts: Sequence[Sequence[str]], max_order: int) -> np.ndarray:
    """Sums over n of the cosines between the texts' counts of n-grams. Shape [N, N]."""
    vectorizers = import_extra("sklearn.feature_extraction", "samples")
    normalize = import_extra("sklearn.preprocessing", "samples").normalize
    K_NN = np.zeros((len(words_of_texts),) * 2)
    for n in range(1, min(max_order, max(map(len, words_of_texts), default=0)) + 1):
        counts = [Counter(" ".join(words[i : i + n]) for i in range(len(words) - n + 1)) for words in words_of_texts]
        unit_NV = normalize(vectorizers.DictVectorizer().fit_transform(counts))
        K_NN += (unit_NV @ unit_NV.T).toarray()
    return K_NN


def mauve(
    texts: Iterable[str],
    references: Iterable[str],
    model: object,
    *,
    num_buckets: int | None = None,
    scaling_factor: float = 5,
    sample_size: int = SAMPLE_SIZE,
    seed: int = 0,
) -> dict[str, Any]:
    """How close the distribution of texts is to that of the references (Pillutla et al., 2021): 1 if equal, 0 if apart.

    The library clusters the features of all texts (see `features`) and compares how the two sides spread over the
    clusters. `mauve_star` and `frontier_integral_star` are its smoothed variants (Pillutla et al., 2023). Its authors
    advise thousands of texts on each side; on small samples it is noisy.

    model: a folder, a Hub id, "demo", or a (model, tokenizer) pair. Scores of different models don't compare.
    num_buckets: clusters; by default a tenth of the smaller side, at least 2.
    scaling_factor: the paper's c.
    sample_size, seed: of each side, see `draw_sample`.

    NaN if a side has no text. faiss says on stderr that it would like more texts to a cluster than the library's
    default.
    """
    compute = import_extra("mauve", "samples").compute_mauve
    sample, num_texts = draw_sample(texts, sample_size, seed)
    sample_of_references, num_references = draw_sample(references, sample_size, seed)
    p_ND, q_ND = features(sample, model), features(sample_of_references, model)
    figures = dict.fromkeys(("mauve", "mauve_star", "frontier_integral", "frontier_integral_star"), math.nan)
    if len(p_ND) and len(q_ND):
        if (p_ND == p_ND[0]).all() and (q_ND == p_ND[0]).all():
            figures = dict(zip(figures, (1.0, 1.0, 0.0, 0.0), strict=True))  # the library divides by their variance
        else:
            buckets = num_buckets or "auto"
            found = compute(p_ND, q_ND, num_buckets=buckets, mauve_scaling_factor=scaling_factor, seed=seed)
            figures = {name: float(getattr(found, name)) for name in figures}
            if np.array_equal(found.p_hist, found.q_hist):
                # The library may say 0.75, for all points of its curve are ties.
                figures |= {"mauve": 1.0} | ({"mauve_star": 1.0} if len(p_ND) == len(q_ND) else {})
    counts = {"num_texts": num_texts, "num_references": num_references}
    return {**figures, **counts, "num_sampled": len(p_ND), "num_sampled_references": len(q_ND)}


def _bleu(tokenize: str, max_order: int) -> Any:
    """sacrebleu's BLEU of a sentence, smoothed as in Texygen. Raises ConfigError for settings it can't have."""
    if tokenize not in TOKENIZERS:
        raise ConfigError(f"tokenize={tokenize!r} is unknown{nearest(tokenize, TOKENIZERS)}")
    if not isinstance(max_order, int) or max_order < 1:
        raise ConfigError(f"max_order={max_order!r} must be an integer of at least 1")
    return import_extra("sacrebleu", "samples").BLEU(
        tokenize=tokenize,
        smooth_method="floor",
        smooth_value=SMOOTHING,
        max_ngram_order=max_order,
        effective_order=True,
    )
