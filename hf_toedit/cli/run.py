"""`hf-toedit run`: an experiment, from a recipe to a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..experiments.runner import RunOptions, run_recipe

RECIPE_HELP = "A bundled recipe, such as small; a YAML file; or a folder with a recipe.yaml."


def run(recipe: Annotated[Path, typer.Argument(help=RECIPE_HELP, show_default=False)], options: RunOptions) -> None:
    """Run an experiment: load, edit, train, evaluate, report. Finished stages are skipped."""
    run_recipe(recipe, options)
