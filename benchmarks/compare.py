"""What editing costs, next to the ways one would pick instead, on the same documents and in one run.

    python benchmarks/compare.py measure            # all shapes that suit the device; writes results/<device>.json
    python benchmarks/compare.py table results/cpu.json

Models have random weights: which positions are visited does not depend on them. Documents have the lengths of real
ones, and random ids. Each way runs in a process of its own; on a CPU these take turns, so that a noisy neighbour hits
all of them alike. vLLM's ways need a Python that has it (--vllm-python).
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, LlamaConfig

from hf_toedit import ToEditConfig
from hf_toedit.editing.decision import change_bound
from hf_toedit.priors.pretrained import DEMO_FOLDER

HERE = Path(__file__).parent
WAYS = {
    "backbone": "backbone alone",
    "forward": "full forward",
    "published": "published method: softmax and top-k of every token",
    "ours": "**ours**",
    "ours-cold": "**ours**, temperature 1",
    "ours-full": '**ours**, `stats="full"`',
    "vllm-prefill": "vLLM: prefill alone",
    "vllm-published": "vLLM: published method, `prompt_logprobs=8`",
    "vllm-plain": "vLLM: **ours**, `lazy=False`",
    "vllm-lazy": "vLLM: **ours**",
}
# hidden, layers, intermediate, vocabulary, heads, key-value heads, tied
SHAPES = {
    "cpu": {
        "256 x 8, 128k": (256, 8, 688, 128_256, 4, 4, True),
        "384 x 12, 128k": (384, 12, 1024, 128_256, 6, 6, True),
        "512 x 24, 128k": (512, 24, 1664, 128_256, 8, 8, True),
        "768 x 12, 32k": (768, 12, 2048, 32_000, 12, 12, True),
    },
    "cuda": {
        "0.5B, 152k": (896, 24, 4864, 151_936, 14, 2, True),
        "1.2B, 128k": (2048, 16, 8192, 128_256, 32, 8, True),
        "8B, 128k": (4096, 32, 14336, 128_256, 32, 8, False),
    },
}
DOCUMENTS = {"cpu": 16, "cuda": 512}
LENGTHS_FROM = "pubmedqa_instruct_pretrain.jsonl"
VLLM_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "TORCHDYNAMO_DISABLE": "1",
}

app = typer.Typer(add_completion=False, help=__doc__)


def save_model(shape: tuple[Any, ...], folder: Path) -> int:
    """A random Llama in bfloat16; returns the number of its parameters outside of embeddings and head."""
    hidden, layers, intermediate, vocabulary, heads, kv_heads, tied = shape
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):  # a prior needs one; here it reads no text
        shutil.copy(DEMO_FOLDER / name, folder)
    return sum(parameter.numel() for name, parameter in model.named_parameters() if ".layers." in name)


def document_lengths(num_documents: int, shared: Path) -> np.ndarray:
    """Tokens of real abstracts; where they are absent, of a log-normal distribution with their median and spread."""
    path = shared / "data" / LENGTHS_FROM
    if not path.exists():
        drawn = np.random.default_rng(0).lognormal(np.log(377), 0.26, num_documents)
        return np.clip(drawn, 122, 902).astype(int)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(shared / "tokenizers/dolma2/tokenizer.json"))
    with path.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    chosen = [texts[i % len(texts)] for i in range(num_documents)]
    return np.array([len(encoding.ids) for encoding in tokenizer.encode_batch(chosen)])


def matmul_rate() -> float:
    """Operations per second of a large bfloat16 matrix product on this device: the best of some."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 8192 if device == "cuda" else 2048
    left, right = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        (left @ right).sum().item()
        seconds.append(time.perf_counter() - start)
    return float(2 * size**3 / min(seconds))


class Worker:
    """A process that runs one way; see ways.py."""

    def __init__(self, python: str, folder: Path, way: str) -> None:
        environment = dict(os.environ)
        if not torch.cuda.is_available():  # vLLM would take one thread
            threads = str(torch.get_num_threads())
            environment |= {"OMP_NUM_THREADS": threads} | (VLLM_ENVIRONMENT if way.startswith("vllm") else {})
        self.way = way
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by stop
        line = [python, str(HERE / "ways.py"), str(folder), way]
        self.process = subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment
        )
        self._answer()

    def run(self) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        measured: dict[str, float] = json.loads(self._answer())
        return measured

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            sys.exit(f"{self.way} failed:\n{self.log.read()[-3000:]}")
        return line

    def stop(self) -> None:
        self.process.communicate()
        self.log.close()


def measure_shape(shape: tuple[Any, ...], ways: list[str], runs: int, device: str, pythons: dict[str, str]) -> Any:
    """Seconds and memory of each way on one shape."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        body = save_model(shape, folder)
        lengths = document_lengths(DOCUMENTS[device], HERE.parents[1] / "shared")
        ids = np.random.default_rng(0).integers(16, shape[3], lengths.sum())
        np.savez(folder / "documents.npz", ids=ids, lengths=lengths)
        measured: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        # On a CPU all take turns; a GPU holds one model at a time.
        for group in [ways] if device == "cpu" else [[way] for way in ways]:
            workers = [Worker(pythons["vllm" if way.startswith("vllm") else "own"], folder, way) for way in group]
            for _ in range(runs):
                for worker in workers:
                    measured[worker.way].append(worker.run())
            for worker in workers:
                worker.stop()
    num_tokens = int(lengths.sum())
    return {"num_tokens": num_tokens, "body_parameters": body, "ways": summarise(measured, num_tokens)}


def summarise(measured: dict[str, list[dict[str, float]]], num_tokens: int) -> dict[str, Any]:
    base = statistics.median(run["seconds"] for run in measured["backbone"])
    base_peak = measured["backbone"][-1]["peak_bytes"]
    found = {}
    for way, runs in measured.items():
        seconds = [run["seconds"] for run in runs]
        found[way] = {
            "tokens_per_second": round(num_tokens / statistics.median(seconds)),
            "min": round(num_tokens / max(seconds)),
            "max": round(num_tokens / min(seconds)),
            "time_over_backbone": round(statistics.median(seconds) / base, 3),
            "peak_mib_above_backbone": round((runs[-1]["peak_bytes"] - base_peak) / 2**20),
        }
    return found


@app.command()
def measure(
    runs: Annotated[int, typer.Option(help="Counted runs of each way.")] = 5,
    shapes: Annotated[str, typer.Option(help="Only shapes whose name holds this.")] = "",
    ways: Annotated[str, typer.Option(help="Only these ways, by commas; the backbone always runs.")] = "",
    vllm_python: Annotated[Path, typer.Option(help="A Python with vLLM.")] = Path(".venv-vllm/bin/python"),
    output: Annotated[Path | None, typer.Option(help="Default: benchmarks/results/<device>.json.")] = None,
) -> None:
    """Measure, and write the figures to a file."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    wanted = [way for way in WAYS if not ways or way in ways.split(",") or way == "backbone"]
    if not vllm_python.exists():
        typer.echo(f"no {vllm_python}: without vLLM's ways (make test-vllm sets it up)", err=True)
        wanted = [way for way in wanted if not way.startswith("vllm")]
    pythons = {"own": sys.executable, "vllm": str(vllm_python.absolute())}
    chip = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU"
    found: dict[str, Any] = {
        "device": chip,
        "threads": torch.get_num_threads(),
        "dtype": "bfloat16",
        "runs": runs,
        "bound": round(change_bound(ToEditConfig()), 4),
        "matmul_flops": round(matmul_rate()),
        "shapes": {},
    }
    output = output or HERE / "results" / f"{chip.replace(' ', '-').lower()}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    for name, shape in SHAPES[device].items():
        if shapes in name:
            found["shapes"][name] = measure_shape(shape, wanted, runs, device, pythons)
            output.write_text(json.dumps(found, indent=1) + "\n")
            Console(width=140).print(details_of(name, found))
    typer.echo(f"written to {output}")


@app.command()
def table(file: Path) -> None:
    """Print the table of docs/speed.md of a file of figures."""
    typer.echo(table_of(json.loads(file.read_text(encoding="utf-8"))))


def table_of(found: dict[str, Any]) -> str:
    """Ways down, shapes across: tokens/s, and time over the backbone."""
    shapes = found["shapes"]
    ways = [way for way in WAYS if any(way in part["ways"] for part in shapes.values())]
    lines = [
        f"| {found['device']}, {found['threads']} threads, {found['dtype']} | {' | '.join(shapes)} |",
        "|---|" + "---:|" * len(shapes),
    ]
    for way in ways:
        rows = [part["ways"].get(way) for part in shapes.values()]
        cells = [f"{row['tokens_per_second']:,} ({row['time_over_backbone']:.2f})" if row else "" for row in rows]
        lines.append(f"| {WAYS[way]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def details_of(name: str, found: dict[str, Any]) -> Table:
    """All figures of one shape."""
    part = found["shapes"][name]
    details = Table(title=f"{name}: {part['num_tokens']:,} tokens, {found['runs']} runs, {found['threads']} threads")
    headings = ("tokens/s, median", "min", "max", "time over backbone", "utilisation", "peak MiB above backbone")
    for heading in ("way", *headings):
        details.add_column(heading, justify="left" if heading == "way" else "right")
    for way, row in part["ways"].items():
        rates = [f"{row[key]:,}" for key in ("tokens_per_second", "min", "max")]
        # Operations of the backbone's matrix products, over what a large matrix product reaches on this device.
        utilisation = 2 * part["body_parameters"] * row["tokens_per_second"] / found["matmul_flops"]
        ratio, peak = f"{row['time_over_backbone']:.2f}", f"{row['peak_mib_above_backbone']:,}"
        details.add_row(WAYS[way].replace("**", ""), *rates, ratio, f"{utilisation:.0%}", peak)
    return details


if __name__ == "__main__":
    app()
