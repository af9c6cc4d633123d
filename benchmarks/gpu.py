"""What editing costs on one NVIDIA GPU, next to the full statistics, the forward pass and the backbone alone.

    python benchmarks/gpu.py measure --output gpu.json      # four and a half minutes on an H200; prints JSON lines
    python benchmarks/gpu.py table gpu.json

Models have the shapes of real ones, but random weights: these decide nothing about the cost, since the positions that
are visited follow from the draws alone. They do leave no token eligible, so that nothing changes; "host" measures the
work beside the prior with changes. Documents are docstrings, joined to about 1,000 tokens of a tokenizer trained on
them. "ours" goes from texts to rows with their `toedit` column, the other ways only from ids to what they compute.
"""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from compare import SHAPES, matmul_rate, save_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from hf_toedit import ScoreRequest, Scores, ToEditConfig, ToEditTransform, TransformersPrior
from hf_toedit.experiments.docstrings import docstrings, standard_library

NUM_DOCUMENTS = {"0.5B, 152k": 192, "1.2B, 128k": 96, "8B, 128k": 32}
SHORTEST, LONGEST = 800, 1200  # tokens of a document
ELIGIBLE = 1 / 8  # the paper's share, for "host"
SHARED = ("0.5B, 152k",)  # shapes that two processes at once are tried with: the smallest gains most
ON_CPU = {"64 x 2, 4k": (64, 2, 128, 4_096, 4, 2, True)}  # to try this script without a GPU
WAYS = {
    "backbone": "backbone alone",
    "forward": "full forward",
    "published": "published method: softmax and top-k of every token",
    "ours": "**ours**",
    "ours-full": '**ours**, `stats="full"`',
    "host": "all but the prior, one token in eight eligible",
}

Run = Callable[[], object]
app = typer.Typer(add_completion=False, help=__doc__)


class ScriptedPrior:
    """One token in eight is eligible; the alternatives are some ids in a row. It takes next to no time."""

    def __init__(self, prior: TransformersPrior) -> None:
        self.tokenizer, self.max_length, self.stride = prior.tokenizer, prior.max_length, prior.stride
        self.revision = "scripted"

    def score(self, requests: Sequence[ScoreRequest], top_k: int) -> list[Scores]:
        ends = np.cumsum([len(request.positions) for request in requests])
        draws = np.random.default_rng(0)
        is_eligible_E = draws.random(ends[-1]) < ELIGIBLE
        p_E = np.where(is_eligible_E, 0.99, 0.6) + np.where(is_eligible_E, 0.01, 0.35) * draws.random(ends[-1])
        target_E = np.concatenate([request.input_ids[request.positions] for request in requests])
        ids_EK = 300 + (target_E[:, None] + np.arange(top_k)) % 2000
        ids_EK[:, 0] = target_E
        share_K = 0.5 ** np.arange(1, top_k)
        logprob_EK = np.log(np.hstack([p_E[:, None], np.outer(1 - p_E, share_K / share_K.sum())]))
        columns = (np.split(array, ends[:-1]) for array in (logprob_EK[:, 0], ids_EK, logprob_EK))
        return [Scores(*arrays) for arrays in zip(*columns, strict=True)]


# documents and models


def train_tokenizer(texts: Sequence[str], num_pieces: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=num_pieces, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def documents_of(texts: Sequence[str], tokenizer: Tokenizer, num_documents: int, seed: int) -> list[str]:
    """Distinct documents of SHORTEST to LONGEST tokens or a little more: docstrings drawn at random and joined."""
    draws = random.Random(seed)
    sizes = [len(encoding.ids) for encoding in tokenizer.encode_batch(texts)]
    usable = [i for i, size in enumerate(sizes) if size <= SHORTEST // 4]
    documents = []
    for _ in range(num_documents):
        parts, wanted = [], draws.randint(SHORTEST, LONGEST)
        while wanted > 0:
            i = draws.choice(usable)
            parts.append(texts[i])
            wanted -= sizes[i] + 1
        documents.append("\n\n".join(parts))
    return documents


def prepare(name: str, folder: Path) -> dict[str, Any]:
    """Write a model with random weights, its tokenizer and the documents. Returns its size."""
    from transformers import PreTrainedTokenizerFast

    shape = shapes()[name]
    with torch.device(device()):
        body = save_model(shape, folder)
    texts = [row["text"] for row in docstrings(standard_library())]
    tokenizer = train_tokenizer(texts, min(32_000, shape[3]))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    for seed in (0, 1):
        documents = documents_of(texts, tokenizer, NUM_DOCUMENTS.get(name, 4), seed)
        (folder / f"documents-{seed}.txt").write_text(json.dumps(documents), encoding="utf-8")
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return {"body_parameters": body, "weight_bytes": weights}


def shapes() -> dict[str, tuple[Any, ...]]:
    return SHAPES["cuda"] if torch.cuda.is_available() else ON_CPU


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


# one process: all ways in turn


def ways_of(prior: TransformersPrior, texts: list[str]) -> dict[str, Run]:
    """What each way runs, all on the same documents; those without a transform in the same batches as `prior`."""
    split = prior._model
    ids = sorted((encoding.ids for encoding in prior.tokenizer.encode_batch(texts)), key=len, reverse=True)

    def batches(batch_tokens: int) -> Iterator[torch.Tensor]:
        size = max(1, batch_tokens // len(ids[0]))
        for start in range(0, len(ids), size):
            rows = [torch.tensor(row, device=split.model.device) for row in ids[start : start + size]]
            yield torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def each_batch(function: Callable[[torch.Tensor], object], batch_tokens: int = split.batch_tokens) -> Run:
        def run() -> None:
            with torch.inference_mode():
                for batch in batches(batch_tokens):
                    function(batch)

        return run

    def published(batch: torch.Tensor) -> object:
        logits = split.model(input_ids=batch, use_cache=False).logits
        values, candidates = logits.float().log_softmax(-1).topk(ToEditConfig().top_k, -1)
        return values.cpu(), candidates.cpu()

    def editing(prior: Any, **options: Any) -> Run:
        transform = ToEditTransform(prior, **options)
        return lambda: transform({"text": texts})

    return {
        "backbone": each_batch(lambda batch: split.backbone(input_ids=batch, use_cache=False)[0]),
        "forward": each_batch(lambda batch: split.model(input_ids=batch, use_cache=False).logits),
        "published": each_batch(published, 4 * LONGEST),
        "ours": editing(prior),
        "ours-full": editing(prior, stats="full"),
        "host": editing(ScriptedPrior(prior)),
    }


def timed(run: Run) -> tuple[float, int]:
    """Seconds of a run, and the most bytes that it held on the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return seconds, torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def load(folder: Path) -> tuple[TransformersPrior, dict[str, float]]:
    """A prior whose model is loaded, and the seconds that its digest and its loading took."""
    start = time.perf_counter()
    prior = TransformersPrior(folder, dtype="bfloat16")
    hashed = time.perf_counter()
    prior._model  # noqa: B018 - loads it
    return prior, {"digest": round(hashed - start, 2), "load": round(time.perf_counter() - hashed, 2)}


@app.command()
def shape(name: str, folder: Path, runs: int = 5) -> None:
    """Measure all ways on one shape, in turns; `measure` runs this in a process of its own. Prints JSON."""
    sizes = prepare(name, folder)
    texts = json.loads((folder / "documents-0.txt").read_text(encoding="utf-8"))
    prior, seconds = load(folder)
    num_tokens = sum(len(encoding.ids) for encoding in prior.tokenizer.encode_batch(texts))
    ways = ways_of(prior, texts)
    for run in ways.values():
        run()  # does not count
    measured: dict[str, list[tuple[float, int]]] = {way: [] for way in ways}
    for _ in range(runs):
        for way, run in ways.items():
            measured[way].append(timed(run))
    found = {"num_tokens": num_tokens, "num_documents": len(texts), **sizes, "seconds_to_start": seconds}
    found["ways"] = {way: summary(measured[way], measured["backbone"], num_tokens) for way in ways}
    print(json.dumps(found))


def summary(measured: list[tuple[float, int]], backbone: list[tuple[float, int]], num_tokens: int) -> dict[str, float]:
    seconds = [seconds for seconds, _ in measured]
    return {
        "tokens_per_second": round(num_tokens / statistics.median(seconds)),
        "min": round(num_tokens / max(seconds)),
        "max": round(num_tokens / min(seconds)),
        "time_over_backbone": round(statistics.median(seconds) / statistics.median(s for s, _ in backbone), 3),
        "peak_bytes": max(peak for _, peak in measured),
    }


# two processes on one GPU


@app.command()
def worker(folder: Path, seed: int) -> None:
    """Edit the documents once for each line of the standard input, from Arrow to Parquet if `datasets` is there."""
    start = time.perf_counter()
    prior, seconds = load(folder)
    texts = json.loads((folder / f"documents-{seed}.txt").read_text(encoding="utf-8"))
    transform = ToEditTransform(prior)
    run: Run = lambda: transform({"text": texts})  # noqa: E731
    try:
        from datasets import Dataset, disable_progress_bars
    except ImportError:
        has_datasets = False
    else:
        has_datasets = True
        disable_progress_bars()
        rows, file = Dataset.from_dict({"text": texts}), folder / f"edited-{seed}.parquet"
        run = lambda: rows.map(transform, batched=True, load_from_cache_file=False).to_parquet(file)  # noqa: E731
    run()
    seconds["first_batch"] = round(time.perf_counter() - start, 2)
    num_tokens = sum(len(encoding.ids) for encoding in prior.tokenizer.encode_batch(texts))
    print(json.dumps({"ready": True, "datasets": has_datasets, "seconds_to_start": seconds}), flush=True)
    for _ in sys.stdin:
        elapsed, peak = timed(run)
        print(json.dumps({"seconds": elapsed, "peak_bytes": peak, "num_tokens": num_tokens}), flush=True)


class Process:
    """A `worker`. start: begin one run. result: its measurements."""

    def __init__(self, folder: Path, seed: int) -> None:
        line = [sys.executable, __file__, "worker", str(folder), str(seed)]
        self.process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("run\n")
        self.process.stdin.flush()

    def result(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a worker ended early: its error stands above")
        measured: dict[str, Any] = json.loads(line)
        return measured


@app.command()
def pair(folder: Path, runs: int = 5) -> None:
    """Measure one process alone and two at once, in turns. Prints JSON."""
    processes = [Process(folder, seed) for seed in (0, 1)]
    ready = [process.result() for process in processes]
    rates: dict[int, list[float]] = {1: [], 2: []}
    peak = 0
    for _ in range(runs):
        for number in (1, 2):
            start = time.perf_counter()
            for process in processes[:number]:
                process.start()
            results = [process.result() for process in processes[:number]]
            rates[number].append(sum(r["num_tokens"] for r in results) / (time.perf_counter() - start))
            peak = max([peak, *(r["peak_bytes"] for r in results)])
    for process in processes:
        process.process.communicate()
    one, two = (statistics.median(rates[number]) for number in (1, 2))
    spread = {f"{number}": [round(min(rates[number])), round(max(rates[number]))] for number in rates}
    print(
        json.dumps(
            {
                "one_tokens_per_second": round(one),
                "two_tokens_per_second": round(two),
                "spread": spread,
                "ratio": round(two / one, 3),
                "peak_bytes_each": peak,
                "seconds_to_start": ready[0]["seconds_to_start"],
                "arrow_to_parquet": ready[0]["datasets"],
            }
        )
    )


# the whole


def scratch_parent() -> str | None:
    """Where models go: memory if it has room for the largest, else the usual folder."""
    if not os.access("/dev/shm", os.W_OK):
        return None
    status = os.statvfs("/dev/shm")
    return "/dev/shm" if status.f_bavail * status.f_frsize > 40e9 else None


def part(command: str, *arguments: object, limit: float) -> dict[str, Any]:
    """Run a command of this script in a process of its own; one that fails or takes too long gives an error."""
    line = [sys.executable, __file__, command, *map(str, arguments)]
    start = time.perf_counter()
    try:
        done = subprocess.run(line, stdout=subprocess.PIPE, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"error": f"took longer than {limit:.0f} s"}
    if done.returncode:
        return {"error": f"exit code {done.returncode}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found | {"seconds_in_all": round(time.perf_counter() - start, 1)}


@app.command()
def measure(
    output: Annotated[Path, typer.Option(help="Where the figures go.")] = Path("gpu.json"),
    runs: Annotated[int, typer.Option(min=1, help="Counted runs of each way.")] = 5,
    only: Annotated[str, typer.Option(help="Only shapes whose name holds this.")] = "",
    limit: Annotated[float, typer.Option(help="Seconds that one part may take.")] = 150,
) -> None:
    """Measure, and write the figures to a file after each part."""
    names = ("torch", "transformers", "tokenizers", "numpy")
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU",
        "dtype": "bfloat16",
        "runs": runs,
        "versions": {name: version(name) for name in names} | {"python": platform.python_version()},
        "matmul_flops": round(matmul_rate()),
        "shapes": {},
        "two_processes": {},
    }
    print(json.dumps(found), flush=True)
    for name in shapes():
        if only not in name:
            continue
        with tempfile.TemporaryDirectory(dir=scratch_parent()) as scratch:
            parts = [("shapes", "shape", (name, scratch))]
            if name in SHARED or name in ON_CPU:
                parts.append(("two_processes", "pair", (scratch,)))
            for key, command, arguments in parts:
                found[key][name] = part(command, *arguments, "--runs", runs, limit=limit)
                print(json.dumps({key: {name: found[key][name]}}), flush=True)
                output.write_text(json.dumps(found, indent=1) + "\n")
    print(f"written to {output}")


@app.command()
def table(file: Path) -> None:
    """Print the table of a file of figures."""
    print(table_of(json.loads(file.read_text(encoding="utf-8"))))


def table_of(found: dict[str, Any]) -> str:
    """Ways down, shapes across: tokens/s, time over the backbone, and the most memory held beyond the weights."""
    whole = {name: part for name, part in found["shapes"].items() if "error" not in part}
    lines = [f"| {found['device']}, {found['dtype']} | {' | '.join(whole)} |", "|---|" + "---:|" * len(whole)]
    for way, title in WAYS.items():
        rows = [part["ways"][way] for part in whole.values()]
        cells = [f"{row['tokens_per_second']:,} ({row['time_over_backbone']:.2f})" for row in rows]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    for way in ("forward", "ours", "ours-full"):
        beyond = [part["ways"][way]["peak_bytes"] - part["weight_bytes"] for part in whole.values()]
        lines.append(
            f"| memory beyond the weights, {WAYS[way]} | {' | '.join(f'{b / 2**30:.1f} GiB' for b in beyond)} |"
        )
    both = [found["two_processes"].get(name, {}).get("ratio") for name in whole]
    cells = [f"{ratio:.2f}" if ratio else "" for ratio in both]
    lines.append(f"| two processes on one GPU, over one | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    app()
