"""Measures on a sample of texts, each by the library that defines it: self-BLEU, the Vendi score, MAUVE.

They compare texts with each other, so they neither add up over rows nor merge over shards. Each takes a seeded sample
of bounded size instead. All of them depend on that size: compare figures of samples of the same size.

Shape suffixes: N texts, D features, V distinct n-grams.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np

from ..editing.checks import checked_integer
from ..errors import ConfigError, RowError, import_extra
from ..statuses import Status
from ..types import FloatArray
from .batches import ngrams_of
from .features import text_features
from .reading import ReadingOptions, read_documents
from .words import words_of

SAMPLE_SIZE = 1000
SMOOTHING = 0.1  # stands in for a count of zero; Texygen's


@dataclasses.dataclass(frozen=True)
class Sample:
    """Texts drawn from a dataset. num_rows, skipped: as in the results of measurements."""

    texts: list[str]
    num_rows: int
    skipped: dict[str, int]

    @property
    def counts(self) -> dict[str, Any]:
        """What results say of the sample."""
        num_measured = self.num_rows - sum(self.skipped.values())
        counts = {"num_rows": self.num_rows, "num_measured": num_measured, "skipped": self.skipped}
        return {**counts, "num_sampled": len(self.texts)}


def draw_sample(data: Any, size: int = SAMPLE_SIZE, seed: int = 0, **options: Unpack[ReadingOptions]) -> Sample:
    """A uniform sample of at most `size` texts, drawn without replacement in one pass.

    It holds all texts, in order, if there are no more than `size`; otherwise it depends on the order of the rows. Blank
    texts are left out, and counted as empty.
    data and options: see `measure`. Raises ConfigError for a size below 1 or a seed below 0.
    """
    size = checked_integer("sample_size", size, 1)
    seed = checked_integer("seed", seed, 0)
    rng = np.random.default_rng(seed)
    texts: list[str] = []
    skipped: Counter[str] = Counter()
    num_read = 0
    for document in read_documents(data, **options):
        if document.text is None:
            raise RowError("the rows hold input_ids: give the tokenizer that made them, or name a column with text")
        status = document.status or (None if document.text.strip() else Status.EMPTY)
        if status is not None:
            skipped[status.value] += 1
            continue
        num_read += 1
        if len(texts) < size:
            texts.append(document.text)
        elif (place := int(rng.integers(num_read))) < size:  # reservoir sampling
            texts[place] = document.text
    return Sample(texts, num_read + skipped.total(), dict(sorted(skipped.items())))


def self_bleu(
    data: Any, *, n: int = 4, sample_size: int = SAMPLE_SIZE, seed: int = 0, **options: Unpack[ReadingOptions]
) -> dict[str, Any]:
    """How much the texts repeat each other: the mean BLEU of each against all others (Zhu et al., 2018, Texygen).

    Between 0 and 1; the higher, the less diverse. It grows with the number of texts. Words: see `words_of`; Texygen's
    come from nltk. Equals, but in linear time, with the words of each text joined by spaces:

        bleu = sacrebleu.BLEU(tokenize="none", smooth_method="floor", effective_order=True)
        np.mean([bleu.sentence_score(text, texts[:i] + texts[i + 1:]).score / 100 for i, text in enumerate(texts)])

    data: see `measure`, also for the options.
    n: the longest n-grams.
    sample_size, seed: of the sample that is measured, at most 1,000 texts by default.

    Returns `self_bleu`, NaN for fewer than two texts, and the counts of rows; `num_sampled` are those that were
    measured.
    """
    bleu = import_extra("sacrebleu", "samples").BLEU
    n = checked_integer("n", n, 1)
    sample = draw_sample(data, sample_size, seed, **options)
    scores = _leave_one_out(bleu, [words_of(text) for text in sample.texts], n) if len(sample.texts) > 1 else []
    return {"self_bleu": math.fsum(scores) / len(scores) / 100 if scores else math.nan, **sample.counts}


def _leave_one_out(bleu: Any, words_of_texts: Sequence[Sequence[str]], longest: int) -> list[float]:
    """BLEU of each text against all others.

    The largest count of an n-gram in the other texts is its largest count of all, or, for the text that has that one,
    the next largest.
    """
    counts_of_texts = [[Counter(ngrams_of(words, n)) for n in range(1, longest + 1)] for words in words_of_texts]
    largest: dict[str, tuple[int, int, int]] = {}  # of an n-gram: its largest count, whose that is, the next largest
    for number, counts in enumerate(counts_of_texts):
        for ngram, count in (item for of_n in counts for item in of_n.items()):
            most, whose, next_most = largest.get(ngram, (0, -1, 0))
            largest[ngram] = (count, number, most) if count > most else (most, whose, max(next_most, count))
    sizes = sorted(map(len, words_of_texts))
    scores = []
    for number, (words, counts) in enumerate(zip(words_of_texts, counts_of_texts, strict=True)):
        correct = [0] * longest
        for i, of_n in enumerate(counts):
            for ngram, count in of_n.items():
                most, whose, next_most = largest[ngram]
                correct[i] += min(count, next_most if whose == number else most)
        total = [of_n.total() for of_n in counts]
        closest = _closest(sizes, len(words))
        found = bleu.compute_bleu(correct, total, len(words), closest, "floor", SMOOTHING, True, longest)
        scores.append(float(found.score))
    return scores


def _closest(sizes: Sequence[int], size: int) -> int:
    """The size closest to this one among all others, the smaller of two. sizes: all of them, in order."""
    at = bisect.bisect_left(sizes, size)
    others = [*sizes[max(0, at - 1) : at], *sizes[at + 1 : at + 2]]
    return min(others, key=lambda other: (abs(other - size), other))


def vendi_score(
    data: Any,
    model: object = None,
    *,
    n: int = 4,
    sample_size: int = SAMPLE_SIZE,
    seed: int = 0,
    **options: Unpack[ReadingOptions],
) -> dict[str, Any]:
    """The effective number of different texts (Friedman and Dieng, 2023): 1 if all are equal, N if none are alike.

    It is the exponential of the entropy of the eigenvalues of K / N, where K holds the similarities of all pairs. By
    default the similarity of two texts is the mean of the cosines between their counts of n-grams, one for each length
    up to `n`, scaled to 1 for a text and itself. Words: see `words_of`. With a model it is the cosine between their
    `text_features`.

    data: see `measure`, also for the options.
    model: a folder, a Hub id, "demo", a TransformersPrior or a (model, tokenizer) pair; None for n-grams.
    n: the longest n-grams.
    sample_size, seed: of the sample that is measured, at most 1,000 texts by default. Time grows with the cube of the
        size, memory with its square.

    Returns `vendi_score`, and `vendi_share`: the score divided by the number of texts. Both are NaN if there are none.
    And the counts of rows; `num_sampled` are those that were measured.
    """
    vendi = import_extra("vendi_score.vendi", "samples")
    n = checked_integer("n", n, 1)
    sample = draw_sample(data, sample_size, seed, **options)
    size, score = len(sample.texts), math.nan
    if size:
        if model is None:
            K_NN = _ngram_similarity([words_of(text) for text in sample.texts], n)
        else:
            features_ND = text_features(sample.texts, model)
            K_NN = features_ND @ features_ND.T
        with warnings.catch_warnings():  # vendi-score 0.0.3 asks for a class by a name that scipy deprecates
            warnings.filterwarnings("ignore", "Please import .csr_matrix.", DeprecationWarning)
            score = float(vendi.score_K(K_NN, normalize=True))
    return {"vendi_score": score, "vendi_share": score / size if size else math.nan, **sample.counts}


def _ngram_similarity(words_of_texts: Sequence[Sequence[str]], longest: int) -> FloatArray:
    """The sum, over the lengths of n-grams, of the cosines between their counts. Shape [N, N]."""
    extraction = import_extra("sklearn.feature_extraction", "samples")
    normalize = import_extra("sklearn.preprocessing", "samples").normalize
    K_NN = np.zeros((len(words_of_texts),) * 2)
    for n in range(1, min(longest, max(map(len, words_of_texts))) + 1):
        counts = [Counter(ngrams_of(words, n)) for words in words_of_texts]
        unit_NV = normalize(extraction.DictVectorizer().fit_transform(counts))
        K_NN += (unit_NV @ unit_NV.T).toarray()
    return K_NN


def mauve(
    data: Any,
    references: Any,
    model: object,
    *,
    num_buckets: int | None = None,
    sample_size: int = SAMPLE_SIZE,
    seed: int = 0,
    **options: Unpack[ReadingOptions],
) -> dict[str, Any]:
    """How close the distribution of texts is to that of the references (Pillutla et al., 2021): 1 if equal, 0 if apart.

    The library mauve-text clusters the `text_features` of all texts, and compares how the two sides spread over the
    clusters. Its authors advise thousands of texts on each side: figures of small samples are noisy.

    data, references: see `measure`, also for the options.
    model: a folder, a Hub id, "demo", a TransformersPrior or a (model, tokenizer) pair. Compare figures of one model.
    num_buckets: clusters; by default a tenth of the smaller side, at least 2.
    sample_size, seed: of the sample that is taken of each side, at most 1,000 texts by default. The seed is also the
        clusters'.

    Returns `mauve`; `mauve_star` and `frontier_integral_star`, smoothed (Pillutla et al., 2023); `frontier_integral`, 0
    if equal and 1 if apart; all NaN if a side has no text. And the counts of rows of each side.

    faiss warns on stderr if there are fewer than 39 texts to a cluster, as there are by default.
    """
    compute = import_extra("mauve", "samples").compute_mauve
    if num_buckets is not None:
        num_buckets = checked_integer("num_buckets", num_buckets, 2)
    sample = draw_sample(data, sample_size, seed, **options)
    others = draw_sample(references, sample_size, seed, **options)
    figures = dict.fromkeys(("mauve", "mauve_star", "frontier_integral", "frontier_integral_star"), math.nan)
    num_sampled = len(sample.texts) + len(others.texts)
    if num_buckets is not None and num_buckets > num_sampled > 0:
        raise ConfigError(f"num_buckets={num_buckets} must be at most {num_sampled}, the texts of both sides together")
    if sample.texts and others.texts:
        p_ND, q_ND = text_features(sample.texts, model), text_features(others.texts, model)
        if (p_ND == p_ND[0]).all() and (q_ND == p_ND[0]).all():
            figures = dict(zip(figures, (1.0, 1.0, 0.0, 0.0), strict=True))  # the library divides by their variance
        else:
            found = compute(p_ND, q_ND, num_buckets=num_buckets or "auto", seed=seed)
            figures = {name: float(getattr(found, name)) for name in figures}
            if np.array_equal(found.p_hist, found.q_hist):
                # The library may say 0.75, for all points of its curve are ties.
                figures |= {"mauve": 1.0} | ({"mauve_star": 1.0} if len(p_ND) == len(q_ND) else {})
    return {**figures, "data": sample.counts, "references": others.counts}
