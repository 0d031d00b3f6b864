"""git in a sandbox, without any configuration, hook, filter or question of its own."""

from collections.abc import Mapping
from typing import Final

from trieline.envs.sandbox import ExecResult, Sandbox
from trieline.envs.swe.patches import Patch

GIT: Final = (
    "git",
    *("-c", "core.hooksPath=/dev/null", "-c", "core.autocrlf=false", "-c", "core.attributesFile=/dev/null"),
    *("-c", "core.fsmonitor=false", "-c", "safe.directory=*", "-c", "advice.detachedHead=false"),
)
NO_CONFIGURATION: Final[Mapping[str, str]] = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
}
PACKAGES = ".git/packages"
"""What the tests of a task that was made here import beside the repository: where no patch reaches it."""
GIT_SECONDS = 120.0


def identity(name: str, email: str, date: str) -> dict[str, str]:
    """The environment in which commits are by this author, at this date: their hashes say what is in them."""
    told = {"NAME": name, "EMAIL": email, "DATE": date}
    return {f"GIT_{role}_{what}": said for role in ("AUTHOR", "COMMITTER") for what, said in told.items()}


def git(sandbox: Sandbox, *arguments: str, stdin: bytes = b"") -> ExecResult:
    """Run it in the work folder."""
    return sandbox.exec(
        [*GIT, *arguments], stdin=stdin, wall_seconds=GIT_SECONDS, environment=NO_CONFIGURATION
    )


def problem_of(result: ExecResult) -> str:
    """The end of what a command said of its failure; "" if it had none."""
    if result.exit_code == 0 and not result.timed_out:
        return ""
    said = result.stderr.decode(errors="replace").strip()[-500:]
    return f"{'timed out; ' if result.timed_out else ''}status {result.exit_code}: {said}"


def apply_patch(sandbox: Sandbox, patch: Patch, *options: str) -> str:
    """Apply one of the forms of a patch to the files; the problem with the first, if none does."""
    problems = []
    for content in patch.contents:
        problem = problem_of(git(sandbox, "apply", "--whitespace=nowarn", *options, "-", stdin=content))
        if not problem:
            return ""
        problems.append(problem)
    return problems[0]
