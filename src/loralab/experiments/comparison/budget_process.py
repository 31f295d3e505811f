"""Counting in a process of its own, so that the one that starts the trainings never loads torch or a model.

It stays small for a reason: on Linux a process begins with the peak memory of the one that started it, and every
training reports its peak.
"""

import contextlib
import importlib
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from loralab.experiments.comparison.cells import Setting
from loralab.experiments.comparison.config import CompareConfig


def settings_of_equal_budget(config: CompareConfig, settings: list[Setting]) -> list[Setting]:
    """What `budget.matched_settings` gives, from another process; its errors are raised here."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_count, config, settings).result()


def _count(config: CompareConfig, settings: list[Setting]) -> list[Setting]:
    with contextlib.redirect_stdout(sys.stderr):  # stdout holds the answer alone
        counting = importlib.import_module("loralab.experiments.comparison.budget")
        matched: list[Setting] = counting.matched_settings(config, settings)
        return matched
