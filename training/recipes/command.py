"""`python -m training.recipes.NAME RUN_DIR`, the same for every recipe. Imports no torch."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from training.recipes.rundir import Run, run_recipe


def run_from_shell(method: str, recipe: Callable[[Run], None], description: str | None) -> int:
    """Parse the one argument, run, return the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m training.recipes.{method}", description=description)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    return run_recipe(parser.parse_args().run_dir.resolve(), method, recipe)
