"""The script with which a row runs its tests, taken apart: what makes ready for them, and their own command.

Official scripts (SWE-bench, `make_eval_script_list`) also reset the test files and apply the test patch, from
within the repository that the agent has changed. Here the grader does both itself, so those lines are left
out, and so are the ones that only print the state of the repository.
"""

import re
import shlex
from dataclasses import dataclass

from trieline.envs.errors import TaskError
from trieline.envs.swe.verdict import END, START

MAX_SCRIPT = 90_000
"""Characters: it is handed to a shell as one word, of which Linux takes 128 KiB."""

_HEREDOC = re.compile(r"<<-?\s*(['\"]?)([A-Za-z_][A-Za-z_0-9]*)\1")
_EXPORT = re.compile(r"export(?: [A-Za-z_]\w*=(?:[\w@%+=:,./-]*|'[^'$`]*'))+ *")
_LEFT_OUT = re.compile(
    r"#!"
    r"|set -[A-Za-z]*(?: pipefail)?$"
    r"|git checkout [0-9a-f]{7,64} "
    r"|git (?:-c \S+ )*(?:status|show|diff)\b"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalScript:
    """Both parts are lines of bash."""

    prepare: str
    test: str
    """The status of its last command is that of the tests."""

    @property
    def exports(self) -> dict[str, str]:
        """Variables that `prepare` exports on a line of their own, with values that expand nothing."""
        found: dict[str, str] = {}
        for line in self.prepare.split("\n"):
            if _EXPORT.fullmatch(line):
                for word in shlex.split(line)[1:]:
                    name, _, value = word.partition("=")
                    found[name] = value
        return found


def read_eval_script(script: str) -> EvalScript:
    """The parts of a row's `eval_script`. Raises TaskError if it does not mark where its tests are."""
    lines = script.replace("\r\n", "\n").split("\n")
    start = next((i for i, line in enumerate(lines) if START in line), None)
    end = next((i for i, line in enumerate(lines) if END in line and start is not None and i > start), None)
    if start is None or end is None:
        msg = f"expected an eval_script with the lines {START!r} and, later, {END!r}, got {script[:200]!r}"
        raise TaskError(msg)
    test = "\n".join(lines[start + 1 : end]).strip()
    prepare = "\n".join(_of_the_environment(lines[:start])).strip()
    if not test:
        msg = f"expected a command between {START!r} and {END!r} in eval_script, got none"
        raise TaskError(msg)
    if len(prepare) + len(test) > MAX_SCRIPT:
        msg = f"expected an eval_script of at most {MAX_SCRIPT} characters beside its patch, got more"
        raise TaskError(msg)
    return EvalScript(prepare=prepare, test=test)


def _of_the_environment(lines: list[str]) -> list[str]:
    """Without what the grader does itself."""
    kept = []
    skip_to: str | None = None
    for line in lines:
        if skip_to is not None:
            skip_to = None if line.strip() == skip_to else skip_to
        elif line.startswith("git apply") and (here := _HEREDOC.search(line)):
            skip_to = here[2]
        elif not _LEFT_OUT.match(line):
            kept.append(line)
    return kept
