"""Signs in a log that the machine failed and not the patch; advice only, the verdict stays as it is.

The signs, their names and their order are those of swebench 5.0.2 (`harness/infra_failure.py`).
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class InfrastructureSign:
    """One sign. `ambiguous` ones can come from a bad patch as well."""

    reason: str
    ambiguous: bool
    pattern: re.Pattern[str]


def _sign(reason: str, pattern: str, *, ambiguous: bool = False) -> InfrastructureSign:
    return InfrastructureSign(reason=reason, ambiguous=ambiguous, pattern=re.compile(pattern, re.MULTILINE))


_SIGNS = (
    _sign("browser_launch_failed", r"Failed to launch|Failed to connect to the bus"),
    _sign("display_unavailable", r"cannot open display|Missing X server|unable to open X display"),
    _sign("out_of_memory", r"Cannot allocate memory|OutOfMemoryError|^Killed$"),
    _sign("container_unavailable", r"Error response from daemon|Cannot connect to the Docker daemon"),
    _sign("network_unreachable", r"Could not resolve host|Temporary failure in name resolution"),
    _sign("missing_module", r"Cannot find module|MODULE_NOT_FOUND|ModuleNotFoundError", ambiguous=True),
    _sign("no_tests_collected", r"no tests ran|collected 0 items", ambiguous=True),
    _sign("tests_timed_out", r"Timeout error: \d+ seconds exceeded", ambiguous=True),
)


def infrastructure_sign(text: str) -> InfrastructureSign | None:
    """The first sign of the list that the log shows."""
    return next((sign for sign in _SIGNS if sign.pattern.search(text)), None)
