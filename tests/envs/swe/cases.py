"""Logs of every format, written for these tests, and what can happen to a log.

The cases need no library and are the same each time: the official package can be asked about them in an
environment of its own (witness.py), and its answers are kept (expected.json).
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
LOGS = FOLDER / "logs"
START, END = ">>>>> Start Test Output", ">>>>> End Test Output"
TIMED_OUT = ">>>>> Tests Timed Out"

PYTEST = ("parse_log_pytest", "parse_log_pytest_options", "parse_log_pytest_v2", "parse_log_matplotlib")
FORMATS: dict[str, tuple[str, ...]] = {
    "pytest": (*PYTEST, "parse_log_seaborn", "parse_log_xarray", "parse_log_pylint", "parse_log_sphinx"),
    "pytest_verbose": (*PYTEST, "parse_log_seaborn"),
    "pytest_colour": (*PYTEST, "parse_log_astropy"),
    "django": ("parse_log_django",),
    "sympy": ("parse_log_sympy",),
    "crash": (*PYTEST, "parse_log_django", "parse_log_chart_js"),
    "mocha": ("parse_log_highlightjs", "parse_log_eslint", "parse_log_p5js", "parse_log_openlayers"),
    "mocha_json": ("parse_log_prismjs",),
    "lighthouse_json": ("parse_log_lighthouse",),
    "lighthouse_mocha": ("parse_log_lighthouse",),
    "cypress": ("parse_log_cypress",),
    "jest": (
        "parse_log_jest",
        "parse_log_carbon",
        "parse_log_react_pdf",
        "parse_log_grommet",
        "parse_log_emotion",
        "parse_log_lighthouse",
    ),
    "calypso": ("parse_log_calypso",),
    "jest_json": ("parse_log_jest_json", "parse_log_immutable_js"),
    "vitest": ("parse_log_vitest",),
    "karma": ("parse_log_karma",),
    "next": ("parse_log_next",),
    "next_cypress": ("parse_log_next",),
    "tap": ("parse_log_tap",),
    "browser_failures": (
        "parse_log_chart_js",
        "parse_log_bpmn_js",
        "parse_log_openlayers",
        "parse_log_eslint",
    ),
    "marked": ("parse_log_marked",),
    "p5js": ("parse_log_p5js",),
    "plotly": ("parse_plotly_js",),
    "quarto": ("parse_log_quarto_cli",),
    "redis": ("parse_log_redis",),
    "jq": ("parse_log_jq",),
    "doctest": ("parse_log_doctest",),
    "micropython": ("parse_log_micropython_test",),
    "googletest": ("parse_log_googletest",),
    "gotest": ("parse_log_gotest",),
    "maven": ("parse_log_maven",),
    "ant": ("parse_log_ant",),
    "gradle": ("parse_log_gradle_custom",),
    "phpunit": ("parse_log_phpunit",),
    "minitest": ("parse_log_minitest", "parse_log_jekyll"),
    "cucumber": ("parse_log_cucumber",),
    "ruby_unit": ("parse_log_ruby_unit",),
    "rspec": ("parse_log_rspec_transformed_json",),
    "cargo": ("parse_log_cargo",),
}
INSTANCES = {
    "parse_log_jekyll": "jekyll__jekyll-8047",
    "parse_log_immutable_js": "immutable-js__immutable-js-2005",
}
VERSIONS = {"lighthouse_json": "2.4", "lighthouse_mocha": "9.5", "jest": "3.1", "next_cypress": "1.27"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One log and one parser."""

    form: str
    change: str
    section: str
    log: str
    parser: str
    instance_id: str
    version: str


def evaluation(section: str, code: str = "1") -> str:
    """The log of an evaluation, as a shell that repeats its commands writes it."""
    return (
        f"+ git apply -v -\nApplied patch cleanly.\n+ : '{START}'\n{section}"
        f"+ SWEBENCH_TEST_EXIT_CODE={code}\n+ : '{END}'\n+ echo '>>>>> Test Exit Code: {code}'\n"
        f">>>>> Test Exit Code: {code}\n"
    )


def _lines(change: Callable[[list[str], random.Random], list[str]]) -> Callable[[str, random.Random], str]:
    return lambda text, chance: "\n".join(change(text.split("\n"), chance))


def _shuffled(lines: list[str], chance: random.Random) -> list[str]:
    begin = chance.randrange(max(len(lines) // 2, 1))
    block = lines[begin : begin + 8]
    chance.shuffle(block)
    return lines[:begin] + block + lines[begin + 8 :]


def _turned(text: str, chance: random.Random) -> str:
    """Some outcomes are others."""
    words = ("PASSED", "FAILED", "SKIPPED", "ERROR", "XFAIL")
    words_of_line = [line.split(" ") for line in text.split("\n")]
    turned = [[chance.choice(words) if w in words else w for w in line] for line in words_of_line]
    return "\n".join(" ".join(line) for line in turned)


SECTIONS: dict[str, Callable[[str, random.Random], str]] = {
    "dropped": _lines(lambda lines, chance: [line for line in lines if chance.random() > 0.25]),
    "doubled": _lines(lambda lines, chance: lines + chance.sample(lines, len(lines) // 3)),
    "reordered": _lines(_shuffled),
    "coloured": _lines(
        lambda lines, chance: [f"\x1b[3{chance.randrange(8)}m{line}\x1b[0m" for line in lines]
    ),
    "percent": _lines(lambda lines, chance: [f"{line} [ {chance.randrange(99)}%]" for line in lines]),
    "blanks": lambda text, chance: text.replace("test_", "test [a b]-[c]_"),
    "brackets": lambda text, chance: text.replace("s ", "s[x-[y]] "),
    "turned": _turned,
    "cut": lambda text, chance: text[: chance.randrange(len(text))],
    "indented": _lines(lambda lines, chance: [" " * chance.randrange(4) + line for line in lines]),
    "tabs": lambda text, chance: text.replace("  ", "\t"),
    "joined": lambda text, chance: text.replace("\n", " ", 3),
    "controls": _lines(
        lambda lines, chance: [chance.choice(["", "\x00", "\x0b", "\x1c"]) + line for line in lines]
    ),
    "twice": lambda text, chance: text + text.upper() + text,
}
WHOLES: dict[str, Callable[[str], str]] = {
    "whole": evaluation,
    "exit_0": lambda section: evaluation(section, "0"),
    "exit_negative": lambda section: evaluation(section, "-9"),
    "no_exit_code": lambda section: evaluation(section).split(">>>>> Test Exit")[0],
    "no_end": lambda section: evaluation(section).split(f"+ : '{END}")[0],
    "no_start": lambda section: evaluation(section).replace(START, ""),
    "markers_twice": lambda section: evaluation(section) + evaluation("PASSED a::b\ntest a ... ok\n", "0"),
    "start_twice": lambda section: evaluation(
        section[: len(section) // 2] + START + section[len(section) // 2 :]
    ),
    "end_first": lambda section: END + evaluation(section),
    "outside": lambda section: evaluation("nothing\n", "0") + section,
    "empty": lambda section: evaluation("", "1"),
    "timed_out": lambda section: evaluation(section) + f"\n{TIMED_OUT}\n",
    "not_applied": lambda section: ">>>>> Patch Apply Failed\n" + evaluation(section),
    "carriage_returns": lambda section: evaluation(section).replace("\n", "\r\n"),
    "ran": lambda section: evaluation("Tests: 12\nKilled\n", "0"),
}


def cases(*forms: str) -> Iterator[Case]:
    """Every parser of a format on every change of its log; of all formats where none is named."""
    for form in forms or FORMATS:
        section = (LOGS / f"{form}.txt").read_text()
        chance = random.Random(form)
        logs = {name: (section, whole(section)) for name, whole in WHOLES.items()}
        for name, change in SECTIONS.items():
            changed = change(section, chance)
            logs[name] = (changed, evaluation(changed))
        for name, (changed, log) in logs.items():
            for parser in FORMATS[form]:
                yield Case(
                    form=form,
                    change=name,
                    section=changed,
                    log=log,
                    parser=parser,
                    instance_id=INSTANCES.get(parser, "a__a-1"),
                    version=VERSIONS.get(form, "1"),
                )
