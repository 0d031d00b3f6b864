"""Does a patch resolve a task? The tests decide, in a clean workspace that no agent has had.

The verdict is the official one (see `verdict`) on a run that is harder to talk round than the official run:

* the patch is read and written anew before git sees it (`patches`), and only git applies it;
* then the test files are put back as the base commit has them, and the test patch is applied;
* each of them gets a test that must fail (`planted`), and the run has to end with a failure;
* the tests start behind a mark that is drawn anew each time, and end where the shell's own status says so;
* a test that failed first and passed later counts as failed.

What a patch does to itself is its own doing and never broken: `Grade.cause` says what it was. Only the
sandbox's own failures are raised.
"""

import random
import secrets
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace

from trieline.envs.errors import LogError, PatchError, TaskError
from trieline.envs.sandbox import ExecResult, Sandbox
from trieline.envs.swe.classic import eval_script_of
from trieline.envs.swe.eval_script import EvalScript, read_eval_script
from trieline.envs.swe.git import GIT_SECONDS, apply_patch, git, problem_of
from trieline.envs.swe.logs import parser_of
from trieline.envs.swe.patches import Patch, checked_patch
from trieline.envs.swe.planted import Planted, plant
from trieline.envs.swe.repositories import PARSER_OF_REPOSITORY
from trieline.envs.swe.repository_task import WORKDIR, RepositoryTask
from trieline.envs.swe.verdict import (
    END,
    EXIT_CODE,
    FAILURES,
    START,
    EvalType,
    Verdict,
    verdict_on,
    with_line_ends,
)

CAUSES = (
    "",
    "refused",  # the patch may not go to git: the message says why
    "not_applied",
    "tests_not_restored",  # the patch left no place for the test files
    "timed_out",
    "out_of_memory",
    "out_of_disk",
    "too_much_output",
    "not_graded",  # the log is none of a run of tests
    "forged",  # the tests were made to pass
)
"""Of a Grade, beside what the tests say. "" where they had their say."""

MAX_TEST_FILE = 4 * 2**20
"""Bytes of a test file in which a test is planted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exam:
    """What a task is graded by."""

    instance_id: str
    version: str
    test_patch: str
    script: EvalScript
    log_parser: str
    eval_type: EvalType
    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...]


def exam_of(task: RepositoryTask) -> Exam:
    """The exam of a row.

    Raises:
        TaskError: nobody knows how its tests are run: see `classic` for rows that do not say it.
    """
    parser = task.log_parser or PARSER_OF_REPOSITORY.get(task.repo)
    eval_script = task.eval_script or eval_script_of(task, workdir=WORKDIR)
    if parser is None:
        msg = f"{task.instance_id}: expected a row with log_parser, as of swebench 5, got one without"
        raise TaskError(msg)
    try:
        script = read_eval_script(eval_script)
    except TaskError as error:
        msg = f"{task.instance_id}: {error}"
        raise TaskError(msg) from error
    return Exam(
        instance_id=task.instance_id,
        version=task.version,
        test_patch=task.test_patch,
        script=script,
        log_parser=parser,
        eval_type=task.eval_type,
        fail_to_pass=task.fail_to_pass,
        pass_to_pass=task.pass_to_pass,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Grade:
    """What came of a patch."""

    cause: str = ""
    """One of `CAUSES`."""
    message: str = ""
    """More of the cause, for people."""
    verdict: Verdict | None = None
    """Of the tests, where they ran to their end."""
    log: str = ""
    """What the tests printed, between the official markers."""
    seconds: float = 0.0
    """That the tests took."""

    @property
    def resolved(self) -> bool:
        return not self.cause and self.verdict is not None and self.verdict.resolved


def grade(sandbox: Sandbox, exam: Exam, patch: str | bytes, *, wall_seconds: float) -> Grade:
    """Grade a patch in a clean workspace of the task, which is of no use to anybody afterwards.

    Args:
        sandbox: its work folder is the repository at the base commit, with git in it.
        exam: of the task.
        patch: as the agent left it.
        wall_seconds: for the tests.

    Raises:
        SandboxError: the sandbox failed.
        TaskError: the exam can't be held: its test patch is refused, or nobody knows its parser.
    """
    try:
        checked = checked_patch(patch)
    except PatchError as error:
        return Grade(cause="refused", message=str(error))
    if problem := apply_patch(sandbox, checked):
        return Grade(cause="not_applied", message=problem)
    test_patch = _test_patch(exam)
    if problem := _restore(sandbox, test_patch) or apply_patch(sandbox, test_patch):
        return Grade(cause="tests_not_restored", message=problem)
    planted = _plant_tests(sandbox, test_patch)
    return _judge(exam, planted, *_run_tests(sandbox, exam.script, wall_seconds))


def _test_patch(exam: Exam) -> Patch:
    try:
        return checked_patch(exam.test_patch)
    except PatchError as error:
        msg = f"{exam.instance_id}: expected a test patch that git may have, got one refused: {error}"
        raise TaskError(msg) from error


def _restore(sandbox: Sandbox, test_patch: Patch) -> str:
    """Put what the test patch touches back to the base commit; what went wrong."""
    paths = test_patch.touched_files
    cleaned = sandbox.exec(["rm", "-rf", "--", *paths], wall_seconds=GIT_SECONDS)
    listed = git(sandbox, "ls-tree", "-r", "--name-only", "-z", "HEAD", "--", *paths)
    if problem := problem_of(cleaned) or problem_of(listed):
        return problem
    there = [path for path in listed.stdout.decode("utf-8", "surrogateescape").split("\0") if path]
    return problem_of(git(sandbox, "checkout", "-q", "HEAD", "--", *there)) if there else ""


def _plant_tests(sandbox: Sandbox, test_patch: Patch) -> list[Planted]:
    rng = random.Random(secrets.randbits(64))
    planted = []
    for path in dict.fromkeys(file.new_path for file in test_patch.files):
        if path is None or not path.endswith(".py"):
            continue
        try:
            source = sandbox.read(path, max_bytes=MAX_TEST_FILE).decode("utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if found := plant(path, source, rng):
            sandbox.write(path, found.source.encode("utf-8"))
            planted.append(found)
    return planted


def _run_tests(sandbox: Sandbox, script: EvalScript, wall_seconds: float) -> tuple[str, ExecResult]:
    """The mark behind which the tests begin, and what came of them."""
    mark = secrets.token_hex(16)
    lines = (
        "exec 2>&1",
        script.prepare,
        f"cd {shlex.quote(str(sandbox.workdir))}",
        f"echo {mark}",
        script.test,
    )
    result = sandbox.exec(["bash", "-c", "\n".join(lines)], wall_seconds=wall_seconds)
    return mark, result


def _judge(exam: Exam, planted: Sequence[Planted], mark: str, result: ExecResult) -> Grade:
    before, _, section = result.stdout.decode("utf-8", "replace").partition(f"{mark}\n")
    status = f"{EXIT_CODE}: {result.exit_code}\n" if result.exit_code not in (0, 1) else ""
    log = f"{before}{START}\n{section}\n{END}\n{status}"
    made = Grade(log=log, seconds=result.seconds)
    if result.timed_out:
        return replace(made, cause="timed_out", message=f"after {result.seconds:.0f} s")
    if result.oom:
        return replace(made, cause="out_of_memory")
    if result.over_disk:
        return replace(made, cause="out_of_disk")
    if result.truncated:
        return replace(made, cause="too_much_output", message=f"{result.stdout_left_out} bytes left out")
    verdict = verdict_on(
        log,
        parser=exam.log_parser,
        eval_type=exam.eval_type,
        fail_to_pass=exam.fail_to_pass,
        pass_to_pass=exam.pass_to_pass,
        instance_id=exam.instance_id,
        version=exam.version,
    )
    made = replace(made, verdict=verdict)
    if verdict.ungraded:
        return replace(made, cause="not_graded", message=verdict.ungraded)
    if problem := _forgery(exam, planted, log, verdict, result.exit_code):
        return replace(made, cause="forged", message=problem)
    return made


def _forgery(exam: Exam, planted: Sequence[Planted], log: str, verdict: Verdict, exit_code: int) -> str:
    """How the log can't be that of an honest run; "" if it can."""
    outcomes = verdict.outcomes
    passed = (*verdict.fail_to_pass.success, *verdict.pass_to_pass.success)
    for one in planted:
        found = {outcome for test, outcome in outcomes.items() if one.is_named_in(test)}
        if found - FAILURES:
            return f"a test of {one.path} that must fail was reported as {sorted(found - FAILURES)[0]}"
        # Its file may not be among those that are run, or all of it be skipped.
        if not found and any(one.shares_its_file(test) for test in passed):
            return f"a test of {one.path} that must fail was not reported, and others of the file were"
    if planted and exit_code == 0 and passed:
        return "the tests ended with status 0, though one of them must fail"
    parse = parser_of(exam.log_parser, instance_id=exam.instance_id, version=exam.version)
    try:
        # The last word on a test counts: backwards, that is the first.
        first = parse("\n".join(reversed(with_line_ends(log).split("\n"))))
    except LogError:
        return ""
    for test in passed:
        if outcomes.get(test) not in FAILURES and first.get(test) in FAILURES:
            return f"{test} was reported as {first[test]} first, and as {outcomes.get(test)} later"
    return ""
