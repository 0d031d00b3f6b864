"""The two readers of ours, for repositories without a published parser: any pytest, and JUnit's XML."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.envs.swe.cases import LOGS
from trieline.envs.errors import LogError
from trieline.envs.swe.log_parsers.xml_reports import DEEPEST, MOST_REPORTS
from trieline.envs.swe.logs import parse_log

BOAT = "tests/test_boat.py::"
TESTS = """\
import pytest

@pytest.fixture
def broken():
    yield
    raise OSError("on the way out")

@pytest.mark.parametrize("word", ["a b", "x - y", "[z]", "c] - d"])
def test_words(word):
    print("tests/test_boat.py::test_words PASSED of sorts")
    assert word != "x - y", "no [dash] - ever"

def test_torn_down(broken): pass

@pytest.mark.xfail(reason="it (always) does - so far")
def test_leak(): assert 0

@pytest.mark.xfail(reason="it floats")
def test_float(): pass

@pytest.mark.skip(reason="no chain (again)")
def test_anchor(): pass

class TestSail:
    def test_wind(self): pass
"""
EXPECTED = {
    f"{BOAT}test_words[a b]": "PASSED",
    f"{BOAT}test_words[x - y]": "FAILED",
    f"{BOAT}test_words[[z]]": "PASSED",
    f"{BOAT}test_words[c] - d]": "PASSED",
    f"{BOAT}test_torn_down": "ERROR",
    f"{BOAT}test_leak": "XFAIL",
    f"{BOAT}test_float": "PASSED",
    f"{BOAT}test_anchor": "SKIPPED",
    f"{BOAT}TestSail::test_wind": "PASSED",
}


@pytest.fixture(scope="module")
def boat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boat")
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "tests").mkdir()
    (folder / "tests" / "test_boat.py").write_text(TESTS)
    return folder


def output_of(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize(
    "arguments",
    ["-rA", "-v -rA --color=yes"],
)
def test_any_pytest_of_a_real_run(boat: Path, arguments: str) -> None:
    outcomes = parse_log(output_of(boat, *arguments.split()), "pytest_any")
    expected = dict(EXPECTED)
    if "-v" not in arguments:
        del expected[f"{BOAT}test_anchor"]  # the summary counts skips by line
    assert outcomes == expected


@pytest.mark.parametrize("form", ["pytest", "pytest_verbose", "pytest_colour"])
def test_any_pytest_of_written_logs(form: str) -> None:
    outcomes = parse_log((LOGS / f"{form}.txt").read_text(), "pytest_any")
    told = {
        "pytest": {
            "tests/test_garden.py::test_plant[a b]": "PASSED",
            "tests/test_garden.py::test_prune[a - b]": "FAILED",
        },
        "pytest_verbose": {f"{BOAT}test_sail[wind-[n]]": "FAILED", f"{BOAT}test_mast": "ERROR"},
        "pytest_colour": {
            "tests/test_sky.py::test_stars[a b - c]": "PASSED",
            "tests/test_sky.py::test_sun": "PASSED",
        },
    }[form]
    assert {test: outcomes.get(test) for test in told} == told


def test_any_pytest_reads_parallel_runs() -> None:
    log = f"[gw1] [ 50%] PASSED {BOAT}test_a \n[gw0] [100%] FAILED {BOAT}test_b[x y] \n"
    assert parse_log(log, "pytest_any") == {f"{BOAT}test_a": "PASSED", f"{BOAT}test_b[x y]": "FAILED"}


def test_what_a_program_prints_is_no_test() -> None:
    assert parse_log("all is PASSED\nnothing here FAILED [ 12%]\nwe PASSED (at last)\n", "pytest_any") == {}


def test_junit_of_a_real_run(boat: Path) -> None:
    output_of(boat, "--junitxml=report.xml", "-q")
    outcomes = parse_log("+ cat report.xml\n" + (boat / "report.xml").read_text() + "\n+ exit", "junit_xml")
    path = "tests.test_boat"
    assert outcomes == {
        test.replace(f"{BOAT}TestSail", f"{path}.TestSail").replace(BOAT, f"{path}::"): outcome
        for test, outcome in EXPECTED.items()
    }


def test_junit_reads_every_document() -> None:
    outcomes = parse_log((LOGS / "junit.txt").read_text(), "junit_xml")
    assert outcomes == {
        "tests.test_boat::test_rows": "PASSED",
        "tests.test_boat.TestSail::test_wind[a < b]": "FAILED",
        "tests.test_boat::test_anchor": "SKIPPED",
        "tests.test_boat::test_leak": "XFAIL",
        "tests.test_boat::test_mast": "ERROR",
        "docks": "PASSED",
    }
    assert parse_log("no report here", "junit_xml") == {}


LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))


@pytest.mark.parametrize(
    "report",
    [
        pytest.param("<testsuite><testcase name='a'>", id="cut"),
        pytest.param("<testsuite></testsuites>", id="crossed"),
        pytest.param("<testsuite>\x1b</testsuite>", id="control character"),
        pytest.param("<testsuite>&l9;</testsuite>", id="entity"),
        pytest.param("<testsuite>" * (DEEPEST + 1), id="deep"),
        pytest.param("<testsuite/>" * (MOST_REPORTS + 1), id="many"),
        pytest.param("<testsuite>\ud800</testsuite>", id="half a character"),
        pytest.param(f"<testsuite <!DOCTYPE testsuite [<!ENTITY l0 'ha'>{LAUGHS}]>", id="document type"),
    ],
)
def test_junit_refuses_what_is_no_report(report: str) -> None:
    with pytest.raises(LogError):
        parse_log(report, "junit_xml")


def test_a_document_type_before_a_report_is_not_read() -> None:
    report = f"<!DOCTYPE testsuite [<!ENTITY l0 'ha'>{LAUGHS}]><testsuite>&l9;</testsuite>"
    with pytest.raises(LogError, match="undefined entity"):
        parse_log(report, "junit_xml")
