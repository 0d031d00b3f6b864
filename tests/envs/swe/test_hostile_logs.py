"""Whatever a log holds, it is read in time linear in its length, or refused by name."""

import contextlib
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.envs.swe.cases import FORMATS, INSTANCES, LOGS, evaluation
from trieline.envs.errors import LogError
from trieline.envs.swe.log_parsers import outcome, suite_formats
from trieline.envs.swe.log_parsers.outcome import Outcomes
from trieline.envs.swe.logs import PARSERS, parse_log, parser_of
from trieline.envs.swe.verdict import verdict_on

VERSIONED = {
    "next 1.27": suite_formats.next_cypress,
    "next 1.26": suite_formats.next_karma,
    "lighthouse 9.5": suite_formats.lighthouse_mocha,
    "lighthouse 2.4": suite_formats.lighthouse_json,
}
DISTINCT: dict[str, Callable[[str], Outcomes]] = VERSIONED | {
    name: parser
    for place, (name, parser) in enumerate(PARSERS.items())
    if parser not in list(PARSERS.values())[:place]
}
"""Each parser once."""

LENGTH = 30_000
SECONDS = 0.5
"""Of this process. A linear parser needs some 5 ms; one that tries each place to the end needs seconds."""
REPEATED = [
    *[
        "\n",
        " ",
        "[",
        "[1",
        "(",
        ": ",
        " (",
        "1",
        "_",
        "= ",
        ". ",
        "<a>",
        "</a>",
        "{\n",
        "\x1b[",
        "\t\x0b",
        "FAILED ",
    ],
    *["a.py:b ", " ... ok", "\n ... Testing against Django installed in ", " ... Internal Server Error: /"],
    *[
        "  1)",
        "  1) a\n",
        "1) ",
        " Error",
        "Chrome 1 (",
        "Chrome Headless ",
        " (Linux x86_64) ",
        "case a:",
        "<a></b>",
    ],
    *[
        "  - a ",
        "Running: ",
        ")\n\n\n  ",
        '"fullTitle": "',
        "AssertionError: #",
        "[ OK ] (",
        "[OK",
        "[ok]: a ( ",
    ],
    *[
        "-Dtest=a\n",
        "-Dtest= ",
        "/tmp/a",
        "<doctest",
        "<testsuite",
        "<testsuite>",
        "<testcase>",
        "✓ ",
        "✓ (1ms",
    ],
    *[" PASSED (", "PASSED a[", "] - ", ">>>>> Start Test Output", "\nok", "test: ", "\n  a", "\r"],
]
BEFORE = ["FAILED a", "Starting browser\n xvfb-run ./node_modules/.bin/jest \n  ✓ "]


@pytest.mark.parametrize("name", DISTINCT)
def test_time_is_linear(name: str) -> None:
    slow = []
    for before in BEFORE:
        for piece in REPEATED:
            log = before + piece * (LENGTH // len(piece)) + "FAILED\n"
            start = time.process_time()
            with contextlib.suppress(LogError):
                DISTINCT[name](log)
            if time.process_time() - start > SECONDS:
                slow.append((before, piece))
    assert slow == []


def test_a_verdict_takes_linear_time() -> None:
    for piece in ("1", "Tests: ", ">>>>> Test Exit Code: ", "Test Suites: 1 a, ", "Killed", "\r"):
        start = time.process_time()
        verdict_on(
            evaluation(piece * (LENGTH // len(piece))),
            parser="parse_log_pytest",
            eval_type="fail_only",
            fail_to_pass=["a"],
            pass_to_pass=[],
        )
        assert time.process_time() - start < SECONDS, piece


@pytest.mark.parametrize(
    "parser", ["parse_log_pytest_v2", "parse_log_django", "parse_log_gotest", "pytest_any"]
)
def test_one_line_of_megabytes(parser: str) -> None:
    start = time.process_time()
    parse_log("PASSED " + "a ... (" * 500_000 + " ok", parser)
    assert time.process_time() - start < 4 * SECONDS


@pytest.mark.parametrize(
    ("parser", "log"),
    [
        ("parse_log_phpunit", "S{0} (x)\n{1}"),
        ("parse_log_highlightjs", "  S{0}\n{1}"),
        ("parse_log_karma", "Starting browser\n  S{0}\n{1}"),
        ("parse_plotly_js", "  - S{0} :\n{2}"),
    ],
)
def test_long_titles_do_not_multiply(parser: str, log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "LONGEST_IDS", 100_000)
    text = log.format("s" * 10_000, "    ✔ t\n" * 20, "    * t : ok\n" * 20)
    with pytest.raises(LogError, match="together longer than 100000 characters"):
        parse_log(text, parser)


PIECES = st.sampled_from(
    [
        *REPEATED,
        *BEFORE,
        *(line for form in FORMATS for line in (LOGS / f"{form}.txt").read_text().splitlines(True)),
    ]
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(PIECES | st.text(max_size=5), max_size=12).map("".join),
    st.sampled_from(sorted({*PARSERS, *(p for parsers in FORMATS.values() for p in parsers)})),
    st.sampled_from(["1.27", "9.5", "3", "0"]),
)
def test_no_log_raises_anything_else(log: str, name: str, version: str) -> None:
    parser = parser_of(name, instance_id=INSTANCES.get(name, ""), version=version)
    try:
        outcomes = parser(log)
    except LogError:
        return
    assert all(isinstance(test, str) and isinstance(told, outcome.Outcome) for test, told in outcomes.items())
