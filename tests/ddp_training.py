"""One of the ranks that test_callback_slow.py starts: trains by callbacks, and on rows edited before."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tiny_training import MANY, edit_offline, lora_on_demo, make_sft_trainer, make_trainer, some_rows, weights_of

from hf_toedit import SelectiveLabels, ToEditCallback, TransformersPrior


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    demo, rows = TransformersPrior("demo"), some_rows()
    edited = edit_offline(demo, rows)
    options = {"per_device_train_batch_size": 3, "max_steps": 2, "ddp_backend": "gloo"}
    packed = {
        "per_device_train_batch_size": 1,
        "max_steps": 1,
        "packing": True,
        "max_length": 256,
        "ddp_backend": "gloo",
    }
    trainers = {
        "plain": make_trainer(folder, rows, **options),
        "offline": make_trainer(folder, edited, **options),
        "callback": make_trainer(folder, rows, [ToEditCallback(demo, **MANY)], **options),
        "lora, apart": make_trainer(folder, rows, [ToEditCallback(demo, **MANY)], model=lora_on_demo(), **options),
        "lora, base": make_trainer(folder, rows, [ToEditCallback("base", **MANY)], model=lora_on_demo(), **options),
        "truncated, offline": make_trainer(folder, SelectiveLabels(demo, high=0.5)(rows), **options),
        "truncated": make_trainer(folder, rows, [ToEditCallback(demo, select={"high": 0.5})], **options),
        "sft, offline": make_sft_trainer(folder, edited, **packed),
        "sft, callback": make_sft_trainer(folder, rows, [ToEditCallback(demo, **MANY)], **packed),
    }
    results = {}
    for name, trainer in trainers.items():
        trainer.train()
        if name == "callback":
            trainer.save_model(str(folder / "model"))
        results[name] = {"weights": weights_of(trainer), "logs": trainer.state.log_history}
    torch.save(results, folder / f"rank{torch.distributed.get_rank()}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
