"""How far random tests search, and what they have looked at.

`@searched(100)` above `@given` sets how many examples a random test tries under `ci`, the profile of every test run; under
`deep`, the profile of `./dev fuzz`, it tries DEEPER times as many, round after round until the time is over. `checked` counts
verdicts by witness and family for the report of `./dev fuzz`. No time is measured here.
"""

from __future__ import annotations

import os
import time

from hypothesis import HealthCheck, settings

PROFILE_VARIABLE, UNTIL_VARIABLE, TALLY_VARIABLE = "NPCTL_SEARCH", "NPCTL_SEARCH_UNTIL", "NPCTL_SEARCH_TALLY"
DEEPER = {"ci": 1, "deep": 3}


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


def time_is_over() -> bool:
    """Whether `./dev fuzz` begins no more tests."""
    return time.time() > float(os.environ.get(UNTIL_VARIABLE, "inf"))


def checked(witness: str, family: int, verdicts: int = 1) -> None:
    """Note that a witness was asked for so many verdicts. Workers and the processes that they fork each have a file."""
    folder = os.environ.get(TALLY_VARIABLE)
    if folder and verdicts:
        with open(os.path.join(folder, str(os.getpid())), "a", encoding="ascii") as file:
            file.write(f"{witness} {family} {verdicts}\n")
