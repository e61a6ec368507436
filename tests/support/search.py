"""How far random tests search, and what they have looked at.

`@searched(100)` above `@given` sets how many examples a random test tries under `ci`, the profile of every test run; under
`deep`, the profile of `./dev fuzz`, it tries DEEPER times as many, round after round until the time is over. `checked` counts
verdicts by witness and family for the report of `./dev fuzz` (tools/fuzz.py sets all of this). No time is measured here.
"""

from __future__ import annotations

import os
import random
import time
from typing import TypeVar

from hypothesis import HealthCheck, settings

T = TypeVar("T")

PROFILE_VARIABLE, UNTIL_VARIABLE, TALLY_VARIABLE = "NPCTL_SEARCH", "NPCTL_SEARCH_UNTIL", "NPCTL_SEARCH_TALLY"
SEED_VARIABLE = "NPCTL_SEARCH_SEED"
DEEPER = {"ci": 1, "deep": 2}
SECONDS = 900
"""After so many a random test hangs: unlike others, it may be long on a slow machine."""


def profile() -> str:
    return os.environ.get(PROFILE_VARIABLE, "ci")


def load_profiles() -> None:
    """Make both profiles known and load the one that the environment names. How long an example takes says nothing: machines
    are slow at times."""
    for name, times in DEEPER.items():
        settings.register_profile(
            name, max_examples=100 * times, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
        )
    settings.load_profile(profile())


def searched(examples: int) -> settings:
    """The decorator of a random test that tries so many examples under `ci`."""
    return settings(max_examples=examples * DEEPER[profile()])


def shuffled(items: list[T]) -> None:
    """Shuffle the tests of a round of `./dev fuzz`, in every worker alike."""
    seed = os.environ.get(SEED_VARIABLE)
    if seed:
        random.Random(seed).shuffle(items)


def time_is_over() -> bool:
    """Whether `./dev fuzz` begins no more tests."""
    return time.time() > float(os.environ.get(UNTIL_VARIABLE, "inf"))


def checked(witness: str, family: int, verdicts: int = 1) -> None:
    """Note that a witness was asked for so many verdicts. Workers and the processes that they fork each have a file."""
    folder = os.environ.get(TALLY_VARIABLE)
    if folder and verdicts:
        with open(os.path.join(folder, str(os.getpid())), "a", encoding="ascii") as file:
            file.write(f"{witness} {family} {verdicts}\n")
