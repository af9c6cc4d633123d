"""What a model makes of a text as a whole: one vector, from which MAUVE and the Vendi score compute distances.

Shape suffixes: N texts, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..arguments import as_prior
from ..errors import ConfigError, PriorError
from ..priors.model_prior import ModelPrior
from ..priors.transformers_prior import TransformersPrior
from ..types import FloatArray, ScoreRequest


def text_features(texts: Sequence[str], model: object) -> FloatArray:
    """The last hidden state of each text's last token, the feature that MAUVE uses. Shape [N, D], float64.

    A text is read as the tokenizer encodes it, special tokens included, up to the model's window (`max_length`).

    model: a folder, a Hub id, "demo", a TransformersPrior, or a (model, tokenizer) pair.

    Raises ConfigError for another kind of prior, which gives no hidden states, and PriorError for a model that can't be
    loaded or gives numbers that aren't finite.
    """
    prior = as_prior(model, "model=")
    if not isinstance(prior, (TransformersPrior, ModelPrior)):
        raise ConfigError(
            f"{type(prior).__name__} gives no hidden states: give a folder, a Hub id or a (model, tokenizer) pair"
        )
    requests = []
    for text in texts:
        ids = prior.tokenizer.encode(text).ids[: prior.max_length] or [0]  # some tokenizers drop rare characters
        # Hidden state t predicts token t + 1. The appended token is a mere target, which the model doesn't read.
        requests.append(ScoreRequest(np.array([*ids, 0]), np.array([len(ids)])))
    hidden_ND = prior.hidden(requests)
    if not np.isfinite(hidden_ND).all():
        raise PriorError(f"{prior!r} gives hidden states that aren't finite: load it with dtype='float32'")
    return hidden_ND
