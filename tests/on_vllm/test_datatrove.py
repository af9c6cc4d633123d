"""A vLLM prior in the workers of a datatrove pipeline: `make test-vllm`."""

from __future__ import annotations

import os
from unittest import mock

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.writers import ParquetWriter

from hf_toedit import ToEditTransform, TransformersPrior, VLLMPrior

SETTINGS = {"threshold": 0.5, "temperature": 2.0}
ENGINE = {"enforce_eager": True, "kv_cache_memory_bytes": 2**26}
NUM_FILES = 3


def test_two_workers_share_the_tasks_and_leave_no_engine_behind(tmp_path, human_texts, monkeypatch):
    """datatrove ends its workers by a signal: an engine in a process of its own would stay."""
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
    (tmp_path / "in").mkdir()
    texts = [human_texts[4 * file : 4 * file + 4] for file in range(NUM_FILES)]
    for file in range(NUM_FILES):
        pq.write_table(pa.table({"text": texts[file]}), tmp_path / f"in/{file}.parquet")

    def watch(data, rank, world_size):
        yield from data
        names = [process.name() for process in psutil.Process().children(recursive=True)]
        (tmp_path / f"{rank}.txt").write_text(f"{os.getpid()} {[name for name in names if 'VLLM' in name]}")

    step = ToEditTransform(VLLMPrior("demo", dtype="float32", engine=ENGINE), **SETTINGS).to_datatrove()
    writer = ParquetWriter(str(tmp_path / "out"), expand_metadata=True, schema=step.schema)
    pipeline = [ParquetReader(str(tmp_path / "in")), step, writer, watch]
    with mock.patch.dict(os.environ):
        LocalPipelineExecutor(pipeline, tasks=NUM_FILES, workers=2, logging_dir=str(tmp_path / "logs")).run()

    with_transformers = ToEditTransform(TransformersPrior("demo"), **SETTINGS)
    for file in range(NUM_FILES):
        (path,) = (tmp_path / "out").glob(f"*{file:05}.parquet")
        assert (
            pq.read_table(path)["text"].to_pylist() == with_transformers({"text": texts[file]})["text"] != texts[file]
        )
    found = [(tmp_path / f"{file}.txt").read_text().split(maxsplit=1) for file in range(NUM_FILES)]
    assert {of_vllm for _, of_vllm in found} == {"[]"}
    assert len({worker for worker, _ in found}) <= 2
