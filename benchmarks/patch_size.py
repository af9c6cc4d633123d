"""How large a patch is, compared with the edited dataset that it stands for.

    python benchmarks/patch_size.py     # writes results/patch-size.json; takes about ten minutes

The rows are docstrings of everything that is installed: human text, different on each machine. A scripted prior edits
them, because only the number of edits matters here: one token in eight is eligible, as in the paper. Both the edited
dataset and the patch are Parquet with zstd.
"""

from __future__ import annotations

import random
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from hf_toedit import ScoreRequest, Scores
from hf_toedit.experiments.docstrings import docstrings, standard_library

RESULTS = Path(__file__).parent / "results/patch-size.json"
ELIGIBLE = 1 / 8
ROWS = {"short": 1, "long": 4}  # docstrings in a row


class ScriptedPrior:
    """One token in eight is eligible. The alternatives are frequent tokens, each half as likely as the one before."""

    max_length, stride, revision = None, 256, "scripted"

    def __init__(self, texts: Sequence[str]) -> None:
        self.tokenizer = Tokenizer(models.BPE())
        self.tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self.tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=16_000, initial_alphabet=alphabet, show_progress=False)
        self.tokenizer.train_from_iterator(texts, trainer)
        ids = [i for encoding in self.tokenizer.encode_batch(texts) for i in encoding.ids]
        self.frequent = np.argsort(-np.bincount(ids))[:997]

    def score(self, requests: Sequence[ScoreRequest], top_k: int) -> list[Scores]:
        return [self._score(request, top_k) for request in requests]

    def _score(self, request: ScoreRequest, top_k: int) -> Scores:
        target_E = request.input_ids[request.positions]
        draws = np.random.default_rng(request.input_ids)
        is_eligible_E = draws.random(len(target_E)) < ELIGIBLE
        p_E = np.where(is_eligible_E, 0.99, 0.6) + np.where(is_eligible_E, 0.01, 0.35) * draws.random(len(target_E))
        others_EK = self.frequent[(draws.integers(997, size=len(target_E))[:, None] + 61 * np.arange(top_k)) % 997]
        is_target_EK = others_EK == target_E[:, None]
        others_EK[:, :-1] = np.where(is_target_EK, others_EK[:, -1:], others_EK)[:, :-1]
        share_K = 0.5 ** np.arange(1, top_k)
        p_EK = np.hstack([p_E[:, None], np.outer(1 - p_E, share_K / share_K.sum())])
        logprob_EK = np.log(p_EK).astype(np.float32)  # as models give them
        return Scores(logprob_EK[:, 0], np.hstack([target_E[:, None], others_EK[:, :-1]]), logprob_EK)


def docstring_rows(num_rows: int, num_in_row: int) -> Iterator[dict[str, Any]]:
    """Rows of one docstring, or of several that are drawn at random and joined."""
    roots = [standard_library(), Path(sysconfig.get_paths()["purelib"])]
    texts = list(dict.fromkeys(row["text"] for root in roots for row in docstrings(root)))
    draws = random.Random(0)
    for i in range(num_rows):
        yield {
            "id": i,
            "text": texts[i % len(texts)] if num_in_row == 1 else "\n\n".join(draws.sample(texts, num_in_row)),
        }
