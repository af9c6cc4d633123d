"""The measurements as modules of `evaluate`, which loads them from a folder of their own.

    import evaluate
    from hf_toedit.measure import module_path

    perplexity = evaluate.load(module_path("perplexity"), prior="demo")
    perplexity.compute(predictions=ds["text"])

`evaluate` copies a module's one file into its cache and imports it from there. So each is a few lines over
`hf_toedit.measure`, without relative imports; `base` does the work. `evaluate` reads the imports line by line, and two
modules after one `import` would break loading. It takes the first of its own classes that it finds in the file, so a
module must not import one by name.

The names of the modules begin with `toedit_`, since `evaluate` has a `perplexity` and a `mauve` of its own, which
compute something else.
"""

from __future__ import annotations

from pathlib import Path

from ...errors import ConfigError, nearest

FOLDER = Path(__file__).parent
PREFIX = "toedit_"


def module_names() -> list[str]:
    """The names of the measurements that are modules of `evaluate`."""
    return sorted(path.name.removeprefix(PREFIX) for path in FOLDER.glob(f"{PREFIX}*"))


def module_path(name: str) -> str:
    """The folder of a measurement's module, for `evaluate.load`. ConfigError for an unknown name."""
    known = module_names()
    if name not in known:
        raise ConfigError(f"there is no module for {name!r}{nearest(name, known)}")
    return str(FOLDER / f"{PREFIX}{name}")
