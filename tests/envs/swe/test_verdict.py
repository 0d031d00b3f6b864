"""The rules of the verdict, one by one, and its report."""

from typing import Any

import pytest

from tests.envs.swe.cases import END, START, evaluation
from trieline.envs.errors import TaskError
from trieline.envs.swe import verdict as verdict_module
from trieline.envs.swe.verdict import Verdict, official_report, verdict_on


def judge(log: str, f2p: list[str], p2p: list[str] | None = None, **changed: Any) -> Verdict:
    arguments = {"parser": "parse_log_pytest", "eval_type": "pass_and_fail"} | changed
    return verdict_on(log, fail_to_pass=f2p, pass_to_pass=p2p or [], **arguments)


@pytest.mark.parametrize(
    ("outcome", "fixes", "keeps"),
    [
        ("PASSED", True, True),
        ("XFAIL", True, True),
        ("SKIPPED", False, True),
        ("FAILED", False, False),
        ("ERROR", False, False),
        ("XPASS", False, False),
    ],
)
def test_what_passes(outcome: str, fixes: bool, keeps: bool) -> None:
    log = evaluation(f"{outcome} a\nPASSED b\n", "0")
    assert judge(log, ["a"], ["b"]).resolved is fixes
    assert judge(log, ["b"], ["a"]).resolved is keeps


def test_the_lists_keep_their_order() -> None:
    log = evaluation("PASSED c\nFAILED b\nPASSED a\n")
    verdict = judge(log, ["c", "b", "a"], ["gone", "a", "b"])
    assert verdict.fail_to_pass.success == ("c", "a")
    assert verdict.fail_to_pass.failure == ("b",)
    assert verdict.pass_to_pass.success == ("a",)
    assert verdict.pass_to_pass.failure == ("gone", "b")


def test_the_last_line_of_a_test_counts() -> None:
    assert judge(evaluation("FAILED a\nPASSED a\n"), ["a"]).ungraded  # and nothing explains the exit code
    assert judge(evaluation("FAILED a\nPASSED a\n", "0"), ["a"]).resolved
    assert not judge(evaluation("PASSED a\nFAILED a\n"), ["a"]).resolved


def test_only_the_first_section_counts() -> None:
    log = evaluation("FAILED a\n") + evaluation("PASSED a\n", "0")
    assert not judge(log, ["a"]).resolved
    assert not judge(f"{START}\nFAILED a\n{START}\nPASSED a\n{END}", ["a"]).resolved
    assert judge("PASSED a\n" + evaluation("nothing\n", "0"), ["a"]).resolved


@pytest.mark.parametrize(
    "log",
    [
        "",
        f"{START}\nPASSED a\n",
        f"PASSED a\n{END}\n",
        evaluation("PASSED a\n", "1"),
        evaluation("PASSED a\n", "-11"),
        evaluation("PASSED a\n", "9" * 5000),
        evaluation("PASSED a\n", "0") + ">>>>> Tests Timed Out",
        evaluation("PASSED a\n", "0") + ">>>>> Patch Apply Failed",
        evaluation("PASSED a\n", "0") + ">>>>> Reset Failed",
        evaluation("PASSED a\n", "0") + ">>>>> Tests Errored",
        evaluation("no tests ran\n", "0"),
    ],
)
def test_logs_that_are_not_graded(log: str) -> None:
    verdict = judge(log, ["a"], eval_type="fail_only")
    assert verdict.ungraded
    assert not verdict.resolved


def test_a_log_that_is_too_long_is_not_graded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict_module, "LONGEST_LOG", 200)
    assert "at most 200 characters" in judge(evaluation("PASSED a\n" * 30, "0"), ["a"]).ungraded


def test_a_cut_id_stands_for_those_that_begin_with_it() -> None:
    log = evaluation("PASSED t[a-1]\nXFAIL t[a-2]\nFAILED t[b-1]\nPASSED t[b-2]\nFAILED u[c]\n")
    assert judge(log, ["t[a"]).resolved
    assert not judge(log, ["t[b"]).resolved
    assert not judge(log, ["t[a-1]x"]).resolved
    assert not judge(log, ["u[c"]).resolved


def test_where_failures_alone_are_told() -> None:
    arguments: dict[str, Any] = {"parser": "parse_log_marked", "eval_type": "fail_only"}
    assert judge(evaluation("5 specs, 0 failures\n", "0"), ["a"], **arguments).resolved
    assert judge(evaluation("0 specs, 0 failures\n", "0"), ["a"], **arguments).ungraded
    verdict = judge(evaluation("1) a\n5 specs, 1 failure\n"), ["a"], ["b"], **arguments)
    assert (verdict.fail_to_pass.failure, verdict.pass_to_pass.success) == (("a",), ("b",))


def test_an_unknown_parser_or_type_is_the_task_s_fault() -> None:
    with pytest.raises(TaskError, match="parse_log_nothing"):
        judge("", [], parser="parse_log_nothing")
    with pytest.raises(TaskError, match="expected an eval_type of pass_and_fail, fail_only"):
        judge("", [], eval_type="fail")
    with pytest.raises(TaskError, match="knows the tasks"):
        judge("", [], parser="parse_log_jekyll", instance_id="jekyll__jekyll-1")
    with pytest.raises(TaskError, match="a version of Lighthouse"):
        judge("", [], parser="parse_log_lighthouse", version="x")


def test_reports() -> None:
    without = {"patch_successfully_applied": False, "resolved": False, "infra_failure": False}
    assert official_report("i", None) == {"i": {"patch_is_None": True, "patch_exists": False} | without}
    killed = judge(evaluation("Killed\n"), ["a"])
    assert official_report("i", killed)["i"] == {"patch_is_None": False, "patch_exists": True} | without | {
        "infra_failure": True,
        "infra_failure_reason": "out_of_memory",
    }
    empty: dict[str, list[str]] = {"success": [], "failure": []}
    assert official_report("i", judge(evaluation("PASSED a\n", "0"), ["a"], ["b"]))["i"]["tests_status"] == {
        "FAIL_TO_PASS": {"success": ["a"], "failure": []},
        "PASS_TO_PASS": {"success": [], "failure": ["b"]},
        "FAIL_TO_FAIL": empty,
        "PASS_TO_FAIL": empty,
    }
