"""Which trainers' batches can be edited without making their loss wrong, and why the others' can't."""

from __future__ import annotations

from typing import Any

from ..editing.config import Targets
from ..errors import ConfigError

ON_LABELS = ("Trainer", "Seq2SeqTrainer", "SFTTrainer")
ON_COMPLETIONS = ("DPOTrainer", "KTOTrainer", "TPOTrainer")  # completion_mask marks what is learned
ON_PAIRS = ("RewardTrainer",)
LISTED = "Trainer, SFTTrainer, DPOTrainer, KTOTrainer and RewardTrainer"
FIX = "edit the dataset with ToEditTransform before training"


def library_class(trainer: Any) -> str:
    """The name of the transformers or TRL class that a trainer is an instance of or derives from."""
    packages = ("transformers", "trl")
    known = (base for base in type(trainer).__mro__ if base.__module__.partition(".")[0] in packages)
    return next(known, type(trainer)).__name__


def check_trainer(trainer: Any, targets: Targets = "edited", *, selects: bool = False) -> None:
    """Raise ConfigError, with a fix, for a trainer whose loss would not follow the edits."""
    name = library_class(trainer)
    if name not in (*ON_LABELS, *ON_COMPLETIONS, *ON_PAIRS):
        raise ConfigError(f"ToEditCallback does not support {name} (it supports {LISTED}): {FIX}")
    if selects and name not in ON_LABELS:
        raise ConfigError(f"select= takes labels out of the loss, but a {name} has none: leave it out")
    if targets == "original" and name not in ON_LABELS:
        raise ConfigError(f"targets='original' leaves labels as they are, but a {name} has none: leave it out")
    model = trainer.model
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise ConfigError(f"{type(model).__name__} is an encoder-decoder, whose labels are not its input_ids: {FIX}")
    if getattr(trainer.data_collator, "mlm", False):
        raise ConfigError(
            f"the data collator masks tokens (mlm=True), so no next token is learned: set mlm=False, or {FIX}"
        )
    if getattr(trainer, "_is_vision_dataset", False):
        raise ConfigError(f"the prior reads text alone, and train_dataset has images: {FIX}")
    if getattr(trainer.args, "precompute_ref_log_probs", False):
        raise ConfigError(
            "precompute_ref_log_probs=True has computed the reference log-probabilities on the unedited tokens: "
            f"set it to False, or {FIX}"
        )
    if trainer.get_sp_size() > 1:
        raise ConfigError(f"under sequence parallelism each rank sees only part of a row: {FIX}")
