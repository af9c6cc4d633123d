"""Build the sdist and the wheel, check them, and try the wheel in an empty environment. Nothing is uploaded.

    make release

The trial installs the wheel with the extra `recipes` and runs, from an empty folder, what a newcomer would run first.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
CONSTRAINTS = ROOT / "constraints.txt"
SHOWN = 12  # last lines of what a command prints


def check_tree() -> None:
    """Files that are not committed would be built in, or left out."""
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)
    if changed.stdout:
        sys.exit(f"error: commit or remove these first, a release holds what is committed:\n{changed.stdout.rstrip()}")


def build() -> tuple[Path, Path]:
    """The wheel, built from the sdist, and the sdist; both with metadata that the index takes."""
    shutil.rmtree(DIST, ignore_errors=True)
    run([sys.executable, "-m", "build", "--no-isolation"], ROOT)
    (wheel,), (sdist,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    run([sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist)], ROOT)
    return wheel, sdist


def try_wheel(wheel: Path, folder: Path) -> None:
    """Install the wheel in an environment of its own, and run the first commands of the README from another folder."""
    venv.create(folder / "venv", with_pip=True)
    programs, elsewhere = folder / "venv/bin", folder / "elsewhere"
    elsewhere.mkdir()
    install = [str(programs / "python"), "-m", "pip", "install", "--quiet", "-c", str(CONSTRAINTS)]
    run([*install, "torch"], folder)  # first: otherwise pip may bring another version, with gigabytes of CUDA packages
    run([*install, f"{wheel}[recipes]"], folder)
    program = str(programs / "hf-toedit")
    run([program, "--version"], elsewhere)
    run([program, "demo", "--limit", "200"], elsewhere)
    run([program, "run", "small", "--smoke"], elsewhere)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)[0]
    run([str(programs / "python"), "-c", first], elsewhere)


def run(command: list[str], folder: Path) -> None:
    """Run a command, print how long it took and the end of what it printed; stop if it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    start = time.monotonic()
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    shown = " ".join("..." if "\n" in word else word for word in command)
    print(f"\n== {shown} ({time.monotonic() - start:.0f} s)")
    print(*(done.stdout.splitlines() if done.returncode else done.stdout.splitlines()[-SHOWN:]), sep="\n", flush=True)
    if done.returncode:
        sys.exit(f"error: exit code {done.returncode}; nothing was uploaded")


def main() -> None:
    check_tree()
    files = build()
    with tempfile.TemporaryDirectory() as folder:
        try_wheel(files[0], Path(folder))
    print("\nThese files are ready. To upload them: twine upload dist/*")
    for file in files:
        size = file.stat().st_size / 1e6
        print(f"  {file.relative_to(ROOT)}  {size:.1f} MB  sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
