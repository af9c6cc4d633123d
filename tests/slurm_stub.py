"""A Slurm of one machine: `sbatch` queues a job, and the test runs the queue as Slurm would, in real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SBATCH = """#!{python}
import json, os, sys
from pathlib import Path
queue = Path({queue!r})
number = str(100 + len(list(queue.iterdir())))
*options, script = sys.argv[1:]
job = {{"options": options, "script": Path(script).read_text(), "env": dict(os.environ), "folder": os.getcwd()}}
(queue / f"{{number}}.json").write_text(json.dumps(job))
print(f"Submitted batch job {{number}}")
"""
SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do [[ $1 == -n ]] && shift; shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
echo "$3"
"""
SQUEUE = """#!/bin/bash
cat {running}
"""
SCANCEL = """#!/bin/bash
cd {queue} && for number; do rm $number.json; done
"""


class Slurm:
    """The stub's commands, to be put in front of PATH, and its queue."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.queue, self.running = folder / "bin", folder / "queue", folder / "running"
        self.queue.mkdir(parents=True)
        self.running.touch()
        self.bin.mkdir()
        commands = {"sbatch": SBATCH, "srun": SRUN, "scontrol": SCONTROL, "squeue": SQUEUE, "scancel": SCANCEL}
        for name, text in commands.items():
            file = self.bin / name
            file.write_text(text.format(python=sys.executable, queue=str(self.queue), running=self.running))
            file.chmod(0o755)

    def job(self, number: str) -> dict[str, Any]:
        """A queued job: its script, its environment, and its options, those of the `#SBATCH` lines included."""
        job = json.loads((self.queue / f"{number}.json").read_text())
        lines = [line for line in job["script"].splitlines() if line.startswith("#SBATCH ")]
        options = [line.removeprefix("#SBATCH ") for line in lines] + job["options"]
        split = [option.removeprefix("--").partition("=") for option in options]
        return {**job, "options": {name: value for name, _, value in split}}

    def run(self, number: str, killed: Callable[[int, subprocess.Popen[bytes]], None] | None = None) -> dict[int, int]:
        """Run all tasks of a job, as many at once as it allows; their exit codes.

        killed: called with the number of each task and its process, once it runs.
        """
        job = self.job(number)
        match = re.fullmatch(r"(\d+)-(\d+)(?:%(\d+))?", job["options"]["array"])
        assert match is not None
        first, last = int(match[1]), int(match[2])
        exported = dict(part.split("=", 1) for part in job["options"]["export"].split(",")[1:])
        self.running.write_text(f"{number}\n")

        def task(rank: int) -> int:
            log = Path(job["options"]["output"].replace("%A", number).replace("%a", str(rank)))
            slurm = {"SLURM_ARRAY_TASK_ID": rank, "SLURM_JOB_ID": int(number) * 1000 + rank, "SLURM_NODELIST": "here"}
            env = {**job["env"], **exported, **{name: str(value) for name, value in slurm.items()}}
            with log.open("wb") as out:
                process = subprocess.Popen(
                    ["bash", "-c", job["script"]],
                    env=env,
                    cwd=job["folder"],
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )
            if killed is not None:
                killed(rank, process)
            return process.wait()

        try:
            with ThreadPoolExecutor(int(match[3] or last - first + 1)) as pool:
                ranks = range(first, last + 1)
                return dict(zip(ranks, pool.map(task, ranks), strict=True))
        finally:
            self.running.write_text("")


def kill(process: subprocess.Popen[bytes]) -> None:
    """End all processes of a task at once, as Slurm does in the end."""
    os.killpg(process.pid, signal.SIGKILL)
