"""Write your own prior: any object with a tokenizer and a `score` method. Here it is a trigram model based on counts.

    python examples/own_prior.py

For real use, call your own model in `score`: a server, another framework, or an ensemble. For tests there is
StaticPrior, whose probabilities you specify.
"""

import inspect
import unittest
from collections import Counter, defaultdict

import numpy as np
from datasets import Dataset

from hf_toedit import Scores, ToEditTransform, TransformersPrior, show, summarize


class TrigramPrior:
    """P(token | the two before it): how often it followed them in the corpus, with 0.001 added to every count."""

    max_length = None  # the longest request it accepts; None for no limit
    stride = 0  # the least context of a token when longer rows are cut into windows
    revision = "trigrams-of-unittest"  # change it when the probabilities change: rows and caches carry it

    def __init__(self, tokenizer, texts):
        self.tokenizer = tokenizer
        self.counts = defaultdict(Counter)
        for encoding in tokenizer.encode_batch(texts):
            for a, b, c in zip(encoding.ids, encoding.ids[1:], encoding.ids[2:], strict=False):
                self.counts[a, b][c] += 1

    def log_probabilities(self, context):
        """The log-probability of every token of the vocabulary, in nats, after a context of at least one token."""
        counts_V = np.full(self.tokenizer.get_vocab_size(), 0.001)
        for token, count in self.counts[tuple(context[-2:])].items():
            counts_V[token] += count
        return np.log(counts_V / counts_V.sum())

    def score(self, requests, top_k):
        """For each request, the target tokens' log-probabilities and the `top_k` likeliest tokens, likeliest first."""
        answers = []
        for request in requests:
            ids, positions = request.input_ids, request.positions
            logprob_EV = np.array([self.log_probabilities(ids[:t].tolist()) for t in positions])
            top_EK = np.argsort(-logprob_EV, axis=1, kind="stable")[:, :top_k]
            logprob_E = logprob_EV[np.arange(len(positions)), ids[positions]]
            answers.append(Scores(logprob_E, top_EK, np.take_along_axis(logprob_EV, top_EK, axis=1)))
        return answers


texts = sorted({text for value in vars(unittest.TestCase).values() if (text := inspect.getdoc(value))})
prior = TrigramPrior(TransformersPrior("demo").tokenizer, texts)
edited = Dataset.from_dict({"text": texts}).map(ToEditTransform(prior, threshold=0.9), batched=True)

print(summarize(edited))
show(edited)
