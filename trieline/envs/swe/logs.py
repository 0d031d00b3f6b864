"""From the text of a test log to the outcome of each test, by the parser that a task names.

Names, and which repository has which, are those of swebench 4.1.0 (a table in the package) and 5.0.2 (a field
of the row): https://github.com/SWE-bench/SWE-bench. Where they differ, the outcomes are those of 5.0.2.
"""

from collections.abc import Mapping

from trieline.envs.errors import TaskError
from trieline.envs.swe.log_parsers import failure_lists, line_formats, python_runners, suite_formats
from trieline.envs.swe.log_parsers.any_pytest import pytest_any
from trieline.envs.swe.log_parsers.outcome import Outcomes, Parser
from trieline.envs.swe.log_parsers.xml_reports import doctest, junit_xml

PARSERS: Mapping[str, Parser] = {
    **dict.fromkeys(
        [
            "parse_log_pytest",
            "parse_log_astroid",
            "parse_log_flask",
            "parse_log_marshmallow",
            "parse_log_pvlib",
            "parse_log_pyvista",
            "parse_log_sqlfluff",
            "parse_log_xarray",
        ],
        python_runners.pytest,
    ),
    **dict.fromkeys(
        ["parse_log_pytest_options", "parse_log_pydicom", "parse_log_requests", "parse_log_pylint"],
        python_runners.pytest_options,
    ),
    **dict.fromkeys(
        ["parse_log_pytest_v2", "parse_log_astropy", "parse_log_scikit", "parse_log_sphinx"],
        python_runners.pytest_v2,
    ),
    "parse_log_django": python_runners.django,
    "parse_log_matplotlib": python_runners.matplotlib,
    "parse_log_seaborn": python_runners.seaborn,
    "parse_log_sympy": python_runners.sympy,
    "parse_log_calypso": suite_formats.calypso,
    "parse_log_cypress": suite_formats.cypress,
    "parse_log_highlightjs": suite_formats.highlightjs,
    "parse_log_karma": suite_formats.karma,
    "parse_plotly_js": suite_formats.plotly,
    "parse_log_prismjs": suite_formats.prismjs,
    "parse_log_bpmn_js": failure_lists.bpmn_js,
    "parse_log_chart_js": failure_lists.chart_js,
    "parse_log_eslint": failure_lists.eslint,
    "parse_log_marked": line_formats.marked,
    "parse_log_openlayers": failure_lists.openlayers,
    "parse_log_p5js": failure_lists.p5js,
    **dict.fromkeys(
        ["parse_log_carbon", "parse_log_prettier", "parse_log_react_pdf", "parse_log_scratch_gui"],
        line_formats.jest_files,
    ),
    "parse_log_emotion": line_formats.emotion,
    "parse_log_grommet": line_formats.grommet,
    "parse_log_jest": line_formats.jest,
    "parse_log_jest_json": line_formats.jest_json,
    "parse_log_quarto_cli": line_formats.quarto,
    "parse_log_tap": line_formats.tap,
    "parse_log_vitest": line_formats.vitest,
    "parse_log_redis": line_formats.redis,
    "parse_log_jq": line_formats.jq,
    "parse_log_doctest": doctest,
    "parse_log_micropython_test": line_formats.micropython,
    "parse_log_googletest": line_formats.googletest,
    "parse_log_gotest": line_formats.gotest,
    "parse_log_maven": line_formats.maven,
    "parse_log_ant": line_formats.ant,
    "parse_log_gradle_custom": line_formats.gradle,
    "parse_log_phpunit": line_formats.phpunit,
    "parse_log_minitest": line_formats.minitest,
    "parse_log_cucumber": line_formats.cucumber,
    "parse_log_ruby_unit": line_formats.ruby_unit,
    "parse_log_rspec_transformed_json": line_formats.rspec,
    "parse_log_cargo": line_formats.cargo,
    # Ours, for repositories without a published one.
    "junit_xml": junit_xml,
    "pytest_any": pytest_any,
}

_BY_PULL_REQUEST: Mapping[str, Mapping[str, Parser]] = {
    "parse_log_jekyll": {
        **dict.fromkeys(["9141", "8047", "8167"], line_formats.minitest),
        **dict.fromkeys(["8761", "8771"], line_formats.cucumber),
    },
    "parse_log_immutable_js": {"2006": line_formats.jest, "2005": line_formats.jest_json},
}
"""Repositories that changed their runner: the parser by the number that ends the task's id."""


def parse_log(text: str, parser: str, *, instance_id: str = "", version: str = "") -> Outcomes:
    """The outcome of each test of a log, in time linear in its length.

    `instance_id` and `version` choose among the parsers of the few repositories whose runner changed. Raises
    TaskError for a parser that nobody knows, LogError for a log that the parser cannot read.
    """
    return parser_of(parser, instance_id=instance_id, version=version)(text)


def parser_of(name: str, *, instance_id: str = "", version: str = "") -> Parser:
    """The parser of that name. Raises TaskError."""
    if name in PARSERS:
        return PARSERS[name]
    if name == "parse_log_next":
        return suite_formats.next_cypress if version == "1.27" else suite_formats.next_karma
    if name == "parse_log_lighthouse":
        return _lighthouse(version)
    by_number = _BY_PULL_REQUEST.get(name)
    if by_number is None:
        msg = f"no log parser is named {name!r}"
        raise TaskError(msg)
    number = instance_id.rsplit("-", 1)[-1]
    if number not in by_number:
        msg = f"{name} knows the tasks {', '.join(by_number)}, not {instance_id!r}"
        raise TaskError(msg)
    return by_number[number]


def _lighthouse(version: str) -> Parser:
    if version in ("9.5", "10.0", "10.2"):
        return suite_formats.lighthouse_mocha
    try:
        return line_formats.jest_files if float(version) >= 3 else suite_formats.lighthouse_json
    except ValueError:
        msg = f"expected a version of Lighthouse such as 9.5, got {version!r}"
        raise TaskError(msg) from None
