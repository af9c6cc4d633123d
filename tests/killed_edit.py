"""`hf-toedit` with a scripted prior, as a program that a test can have killed at a chosen place.

    KILLED_EDIT_FOLDER=FOLDER python killed_edit.py edit a.jsonl --prior scripted ...

The file `FOLDER/orders/PLACE.VICTIM` is an order: the first process that comes to the place takes it, and kills the
victim, `worker` (itself) or `parent`, with SIGKILL. The number of each unit that is begun is a line of `FOLDER/begun`.
Workers are new processes, which run this file again: so the places are theirs, too.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

PLACES = ["begin", "in_shard", "before_manifest", "in_manifest", "after_manifest"]
DEADLY, WRONG = "@", "#"  # whose ids in the demo prior's tokenizer follow from their codes
SECONDS = 0.05  # that a batch takes at least


def distribution(input_ids, t):
    """Sure of every third token."""
    target = int(input_ids[t])
    return {target: 0.995, (target + 1) % 200: 0.005} if target % 3 == 0 else {target: 0.6, 7: 0.4}


def deadly(input_ids, t):
    """Kills its process, or fails as no prior should, on some texts: those that begin with such a token."""
    first = int(input_ids[1])
    if first == ord(DEADLY) - ord("!") + 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if first == ord(WRONG) - ord("!") + 1:
        raise KeyError(WRONG)
    return {int(input_ids[t]): 0.995, 17: 0.005}


def stuck(input_ids, t):
    """Says which process it is in, in the file `stuck`, and never answers."""
    Path("stuck").write_text(f"{os.getpid()}\n")
    time.sleep(600)


def is_ordered(place):
    return any((FOLDER / "orders" / f"{place}.{victim}").exists() for victim in ("worker", "parent"))


def reach(place):
    """Follow an order for this place, if there is one."""
    in_worker = multiprocessing.parent_process() is not None
    for victim in ("worker", "parent"):
        try:
            (FOLDER / "orders" / f"{place}.{victim}").unlink()
        except FileNotFoundError:
            continue
        os.kill(os.getppid() if in_worker and victim == "parent" else os.getpid(), signal.SIGKILL)
        time.sleep(60)  # a worker ends with its parent


def lay_out_places():
    from tokenizers import Tokenizer

    import hf_toedit.scale.workers as workers
    from hf_toedit import StaticPrior
    from hf_toedit.cli.options import PriorOptions
    from hf_toedit.priors.pretrained import DEMO_FOLDER
    from hf_toedit.scale.job import MANIFESTS, Job
    from hf_toedit.scale.storage import SHARDS, LocalFolder

    def load(self, workers, **options):
        return StaticPrior(Tokenizer.from_file(str(DEMO_FOLDER / "tokenizer.json")), distribution)

    def edit_unit(job, number, on_batch, then=workers.edit_unit):
        with (FOLDER / "begun").open("a") as file:
            file.write(f"{number}\n")
        reach("begin")

        def slowly(batch):
            time.sleep(SECONDS)
            on_batch(batch)

        return then(job, number, slowly)

    def put(self, file, name, then=LocalFolder.put):
        place = "in_shard" if name.startswith(SHARDS) else "in_manifest" if name.startswith(MANIFESTS) else ""
        if place and is_ordered(place):
            os.truncate(file, file.stat().st_size // 2)  # as far as it was written
            reach(place)
        then(self, file, name)

    def commit(self, manifest, then=Job.commit):
        reach("before_manifest")
        then(self, manifest)
        reach("after_manifest")

    PriorOptions.load, workers.edit_unit, LocalFolder.put, Job.commit = load, edit_unit, put, commit


if __name__ in ("__main__", "__mp_main__"):
    FOLDER = Path(os.environ["KILLED_EDIT_FOLDER"])
    lay_out_places()

if __name__ == "__main__":
    from hf_toedit.cli.main import app

    app()
