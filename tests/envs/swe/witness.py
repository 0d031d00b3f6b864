"""What the official package says of the cases: `python -m tests.envs.swe.witness` writes expected.json.

It needs swebench 5.0.2 (the extra `swe-witness`), which is large and may live in an environment of its own.
"""

import contextlib
import hashlib
import importlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.envs.swe.cases import FOLDER, Case, cases

EXPECTED = FOLDER / "expected.json"
LANGUAGES = ("c", "go", "java", "javascript", "php", "python", "ruby", "rust")
ASKED = (("pass_and_fail", "mixed"), ("pass_and_fail", "passing"), ("fail_only", "mixed"))
"""What the reports are about: a type of evaluation and lists of tests."""
OUTCOMES = {"PASSED", "FAILED", "SKIPPED", "ERROR", "XFAIL"}
ABSENT = ["tests/test_nowhere.py::test_nothing", "tests/test_garden.py::test_water[1.5-["]


Lists = tuple[list[str], list[str]]
"""FAIL_TO_PASS and PASS_TO_PASS."""


def digest(value: Any) -> str:
    """Equal for equal values of JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def lists_of(outcomes: Mapping[str, str]) -> dict[str, Lists]:
    """Of all tests, one that is absent and one that is cut; and of those that pass."""
    tests = sorted(outcomes)
    passing = [test for test in tests if outcomes[test] in ("PASSED", "XFAIL")]
    skipped = [test for test in tests if outcomes[test] == "SKIPPED"]
    return {
        "mixed": (tests[::3] + ABSENT[:1], tests[1::3] + tests[2::3] + ABSENT[1:]),
        "passing": (passing[::2], passing[1::2] + skipped),
    }


def official_parser(name: str) -> Callable[[str, Any], dict[str, str]]:
    """By name, those that 5.x no longer registers too."""
    for language in LANGUAGES:
        module = importlib.import_module(f"swebench.harness.log_parsers.{language}")
        if hasattr(module, name):
            return getattr(module, name)  # type: ignore[no-any-return]
    raise KeyError(name)


def specification(case: Case, eval_type: str, tests: Lists) -> Any:
    """The task as the official functions want it."""
    return SimpleNamespace(
        **asdict(case),
        log_parser=case.parser,
        eval_type=eval_type,
        FAIL_TO_PASS=tests[0],
        PASS_TO_PASS=tests[1],
    )


def official_outcomes(case: Case) -> dict[str, str] | None:
    """Of the test section; None if the official parser fails on it."""
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            outcomes = official_parser(case.parser)(case.section, specification(case, "", ([], [])))
        except Exception:  # noqa: BLE001  # whatever it is, the official run has no report then
            return None
    return {test: word if word in OUTCOMES else "UNCLEAR" for test, word in outcomes.items()}


def official_report(case: Case, eval_type: str, tests: Lists) -> Any:
    """Of the whole log; None if the official grading fails on it."""
    from swebench.harness import grading

    grading.PARSER_REGISTRY[case.parser] = official_parser(case.parser)
    prediction = {"instance_id": case.instance_id, "model_name_or_path": "a", "model_patch": "diff"}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / "log.txt"
        path.write_bytes(case.log.encode())
        try:
            return grading.get_eval_report(
                specification(case, eval_type, tests), prediction, str(path), include_tests_status=True
            )[case.instance_id]
        except Exception:  # noqa: BLE001  # as above
            return None


Answers = dict[str, dict[str, dict[str, Any]]]


def answers() -> Answers:
    """By form, parser and change: digests of the outcomes and of each report; and the lists of tests."""
    found: Answers = {}
    for case in cases():
        outcomes = official_outcomes(case)
        of_parser = found.setdefault(case.form, {}).setdefault(case.parser, {})
        if not of_parser:
            of_parser["tests"] = lists_of(outcomes or {})
        reports = [official_report(case, kind, of_parser["tests"][lists]) for kind, lists in ASKED]
        of_parser[case.change] = " ".join(digest(answer) for answer in (outcomes, *reports))
    return found


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    EXPECTED.write_text(json.dumps(answers(), indent=0, ensure_ascii=False) + "\n")
