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


def features(texts: Sequence[str], model: object) -> FloatArray:
    """The last hidden state of each text's last token, the feature that MAUVE uses. Shape [N, D], float64.

    A text is read as the tokenizer encodes it, special tokens included, up to the model's window (`max_length`). Texts
    without a token are left out.

    model: a folder, a Hub id, "demo", a TransformersPrior, or a (model, tokenizer) pair.

    Raises ConfigError for another kind of prior, which gives no hidden states, and PriorError for a model that can't be
    loaded or gives numbers that aren't finite.
    """
    prior = as_prior(model, "model=")
    if not isinstance(prior, (TransformersPrior, ModelPrior)):
        raise ConfigError(
            f"{type(prior).__name__} gives no hidden states: give a folder, a Hub id or a (model, tokenizer) pair"
        )
    encoded = [prior.tokenizer.encode(text).ids[: prior.max_length] for text in texts]
    # Hidden state t predicts token t + 1. The token that is appended is only a target, which the model doesn't read.
    requests = [ScoreRequest(np.array([*ids, ids[0]]), np.array([len(ids)])) for ids in encoded if ids]
    hidden_ND = prior.hidden(requests) if requests else np.empty((0, 1))
    if not np.isfinite(hidden_ND).all():
        raise PriorError(f"{prior!r} gives hidden states that aren't finite: load it with dtype='float32'")
    return hidden_ND
