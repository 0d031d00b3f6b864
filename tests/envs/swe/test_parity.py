"""Outcomes and verdicts equal to those of swebench 5.0.2, on written and changed logs and on real ones."""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.envs.swe import witness
from tests.envs.swe.cases import FORMATS, Case, cases
from trieline.envs.errors import LogError
from trieline.envs.swe.log_parsers.outcome import Outcome
from trieline.envs.swe.logs import PARSERS, parse_log
from trieline.envs.swe.repositories import PARSER_OF_REPOSITORY, eval_type_of
from trieline.envs.swe.verdict import Verdict, official_report, outcomes_told, verdict_on

EXPECTED: witness.Answers = json.loads(witness.EXPECTED.read_text())
REAL = Path(__file__).parents[4] / "shared" / "data" / "swe_logs"


def words(outcomes: Mapping[str, Outcome]) -> dict[str, str]:
    return {test: outcome.value for test, outcome in outcomes.items()}


def our_outcomes(case: Case) -> dict[str, str] | None:
    try:
        return words(parse_log(case.section, case.parser, instance_id=case.instance_id, version=case.version))
    except LogError:
        return None


def our_verdict(case: Case, eval_type: str, tests: Any) -> Verdict:
    return verdict_on(
        case.log,
        parser=case.parser,
        eval_type=eval_type,
        fail_to_pass=tests[0],
        pass_to_pass=tests[1],
        instance_id=case.instance_id,
        version=case.version,
    )


@pytest.mark.parametrize("form", FORMATS)
def test_outcomes_and_verdicts_are_the_official_ones(form: str) -> None:
    wrong = []
    for case in cases(form):
        answers = EXPECTED[form][case.parser]
        outcomes, *reports = answers[case.change].split()
        if witness.digest(our_outcomes(case)) != outcomes:
            wrong.append(f"{case.parser} on {case.change}: outcomes")
        for (eval_type, lists), expected in zip(witness.ASKED, reports, strict=True):
            verdict = our_verdict(case, eval_type, answers["tests"][lists])
            if expected == witness.digest(None):  # the official grading fails, and the run has no report
                right = bool(verdict.ungraded)
            else:
                right = (
                    witness.digest(official_report(case.instance_id, verdict)[case.instance_id]) == expected
                )
            if not right:
                wrong.append(f"{case.parser} on {case.change}: {eval_type}, {lists} tests")
    assert wrong == []


def test_the_kept_answers_are_those_of_the_official_package() -> None:
    if importlib.util.find_spec("swebench") is None:
        pytest.skip("swebench is not installed (extra swe-witness); its answers are kept in expected.json")
    assert witness.answers() == EXPECTED


def test_every_parser_has_a_log() -> None:
    asked = {parser for parsers in FORMATS.values() for parser in parsers}
    known = [PARSERS[name] for name in asked if name in PARSERS]  # names of one parser stand for each other
    assert {name for name, parser in PARSERS.items() if parser not in known} == {"pytest_any", "junit_xml"}
    assert set(PARSER_OF_REPOSITORY.values()) <= set(PARSERS) | asked


def test_repositories_have_their_parser_and_type() -> None:
    assert PARSER_OF_REPOSITORY["django/django"] == "parse_log_django"
    assert PARSER_OF_REPOSITORY["psf/requests"] == "parse_log_pytest_options"
    assert len(PARSER_OF_REPOSITORY) == 79
    assert eval_type_of("markedjs/marked") == "fail_only"
    assert eval_type_of("django/django") == "pass_and_fail"


@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is not there")
def test_real_logs_get_the_official_verdict() -> None:
    folders = sorted(path.parent for path in REAL.glob("*/expected.json"))
    assert len(folders) == 69
    for folder in folders:
        expected = json.loads((folder / "expected.json").read_text())
        log, task = (folder / "log.txt").read_text(), expected["instance"]
        outcomes = outcomes_told(log, PARSERS[task["log_parser"]])
        assert words(outcomes) == expected["official_status_map"], folder.name
        for lists in expected.get("cases") or [task | {"official_report": expected["official_report"]}]:
            verdict = verdict_on(
                log,
                parser=task["log_parser"],
                eval_type=task["eval_type"],
                fail_to_pass=lists["FAIL_TO_PASS"],
                pass_to_pass=lists["PASS_TO_PASS"],
            )
            report = official_report(task["instance_id"], verdict)[task["instance_id"]]
            assert report == lists["official_report"], (folder.name, lists.get("name"))
