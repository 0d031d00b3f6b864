"""The checker says what training would do: it runs environments in threads of processes of their own."""

import io
import re
from pathlib import Path

import pytest

from tests.envs.checked_envs import MODULE
from trieline.command_line import main
from trieline.envs.check import CheckResult, check_environment
from trieline.envs.contract import CHECKS
from trieline.envs.errors import EnvError, UnknownEnvError

SOLUTION = "the solution scores 1"
TASK_ID = "a task_id gives the same task again"
LISTED = "listed tasks can be played, each in one split"
CUT = "an episode that is cut can be graded"
CLOSE = "close() works whenever it is called"
PROCESS = "its process is left as it was"


def _check(kind: str, limit_s: float = 60.0) -> dict[str, CheckResult]:
    results = check_environment(f"{MODULE}:checked/{kind}-v0", limit_s=limit_s)
    return {result.name: result for result in results}


@pytest.mark.parametrize(
    "kind",
    ["Said", "Pooled", "BooleanReward", "ArrayReward", "DecimalReward", "Listed", "Cut", "Moves"],
)
def test_what_can_be_trained_on_passes(kind: str) -> None:
    assert [result for result in _check(kind).values() if not result.passed] == []


@pytest.mark.parametrize(
    ("kind", "name", "detail"),
    [
        (
            "Alarmed",
            SOLUTION,
            r"ValueError: signal only works in main thread.*: training calls .* in a thread",
        ),
        ("AlarmLeft", PROCESS, r"expected no alarm left running, got one in 100\.0 s|got one in 9\d\.\d s"),
        ("Killed", SOLUTION, r"the process was ended by SIGALRM in the middle of it"),
        ("Exits", SOLUTION, r"the process exited with status 0 in the middle of it"),
        ("Quits", SOLUTION, r"SystemExit: enough"),
        ("CloseRaises", CLOSE, r"RuntimeError: still busy"),
        ("CloseNeedsReset", CLOSE, r"AttributeError: .*word"),
        ("ListReward", SOLUTION, r"expected a finite number as reward, got array\(\[1\.\]\) \(ndarray\)"),
        ("Deaf", TASK_ID, r"expected task '\w+', as asked for, in the info of reset, got '\w+'"),
        ("ListedTwice", LISTED, r"train: expected each task once, got 1 again"),
        ("ListedAnew", LISTED, r"train: expected the same list from another instance"),
        ("ListedOverlapping", LISTED, r"expected no task in both splits, got \['bird'\]"),
        ("ListedLong", LISTED, "train: expected at most 100000 tasks and 200 .*, got 1 and 205"),
        ("ListedNumbers", LISTED, r"train: expected a sequence of texts from task_ids, got \[1, 2\]"),
        ("ListedUnplayable", LISTED, r"expected task 'dog', as asked for, in the info of reset, got 'cat'"),
        ("CutWithoutScore", CUT, r"expected info\['score'\] as a dict from finish, got"),
        ("CutTooLate", CUT, r"IndexError"),
    ],
)
def test_what_training_would_stumble_over_is_told(kind: str, name: str, detail: str) -> None:
    result = _check(kind)[name]
    assert not result.passed
    assert re.search(detail, result.detail), result.detail


def test_a_check_that_hangs_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trieline.envs.check.CHECKS", {SOLUTION: CHECKS[SOLUTION]})
    result = _check("Hangs", limit_s=5.0)[SOLUTION]
    assert result == CheckResult(
        name=SOLUTION, passed=False, detail="expected it to end within 5 s; a call may hang"
    )


def test_lines_of_the_report_are_bounded() -> None:
    result = _check("Wordy")["a wrong answer does not"]
    assert not result.passed
    assert result.detail.startswith("ContractError: expected less than 1 for ")
    assert len(result.detail) < 1100


def test_a_changed_folder_is_told_and_stays_the_childs() -> None:
    here = Path.cwd()
    result = _check("Moves")[PROCESS]
    assert result.passed
    assert result.detail.startswith("it changes the working folder, here to ")
    assert Path.cwd() == here


def test_what_is_not_offered_is_said() -> None:
    results = _check("Said")
    assert results[LISTED].detail == "not offered: task_ids()"
    assert results[CUT].detail == "not offered: finish()"
    assert results[PROCESS].detail == ""


def test_what_can_not_be_made_is_an_error_of_ours() -> None:
    with pytest.raises(EnvError, match="checked/Unmakeable-v0 could not be made: RuntimeError: no data here"):
        _check("Unmakeable")
    with pytest.raises(EnvError, match="unknown environment 'trieline/Aritmetic-v0'; the closest"):
        check_environment("trieline/Aritmetic-v0")
    with pytest.raises(UnknownEnvError, match="no module 'no_such_module'"):
        check_environment("no_such_module:me/Task-v0")


def test_the_report_can_be_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["envs", "check", f"{MODULE}:checked/Escapes-v0"]) == 1
    printed = capsys.readouterr().out
    assert f"FAIL  {SOLUTION}: RuntimeError: \\x1b[2Jgone \\ud800\n" in printed


def test_playing_by_hand_shows_what_a_terminal_would_obey(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("cat\n"))
    assert main(["envs", "play", f"{MODULE}:checked/Loud-v0"]) == 0
    printed = capsys.readouterr().out
    assert "> \\x1b[2J\nreward 1, terminated; score: {'said': '\\x1b[0m'}\n" in printed
