"""What an agent is told: the task and how to act, and what came of a command."""

from trieline.envs.sandbox import ExecResult
from trieline.envs.swe.replies import DIVIDE, EDIT, REPLACE, SEARCH

SUBMIT = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
"""The first line that a command prints to end the episode, as mini-swe-agent has it."""
MOST_STATEMENT = 60_000
"""Characters of a problem statement that are shown."""
MOST_AROUND = 4_000
"""Characters of any observation beside the statement or the output."""

_TASK = """\
Solve this issue in the repository at {workdir}:

<issue>
{statement}
</issue>

Each of your replies has one block with a command for bash:

```bash
ls -la
```

You are shown its return code and its output. Every command runs in a new shell in {workdir}, for at most \
{seconds:g} s; what it changes in files stays.{edits} Change the source, not the tests: hidden tests decide.

When the issue is solved, reply with this, and the files are graded as they are:

```bash
echo {submit}
```

They are after {steps} replies, too."""
_EDITS = f"""

Instead of a command the block can replace a text that is in a file exactly once; an empty text makes a new \
file:

```{EDIT}
path/of/file.py
{SEARCH}
a line as it is
{DIVIDE}
a line as it will be
{REPLACE}
```

"""


def first_observation(statement: str, *, workdir: str, seconds: float, steps: int, edits: bool) -> str:
    """The task and how to act."""
    left_out = len(statement) - MOST_STATEMENT
    if left_out > 0:
        statement = f"{statement[:MOST_STATEMENT]}\n({left_out:,} more characters are left out)"
    return _TASK.format(
        workdir=workdir,
        statement=statement.strip(),
        seconds=seconds,
        steps=steps,
        submit=SUBMIT,
        edits=_EDITS if edits else "",
    )


def output_shown(result: ExecResult, *, head_bytes: int, limit_seconds: float) -> str:
    """What came of a command. Of output that was cut, the first `head_bytes` are its head."""
    lines = [f"<returncode>{result.exit_code}</returncode>"]
    lines += [f"<note>{why}</note>" for why in why_ended(result, limit_seconds)]
    if result.stdout_left_out:
        head, tail = result.stdout[:head_bytes], result.stdout[head_bytes:]
        lines += [
            *_tagged("output_head", head),
            f"<left_out>{result.stdout_left_out:,} bytes; print less, or to a file</left_out>",
            *_tagged("output_tail", tail),
        ]
    else:
        # Commands write to stdout alone; on stderr is why one could not be started.
        lines += _tagged("output", result.stdout + result.stderr)
    return "\n".join(lines)


def why_ended(result: ExecResult, limit_seconds: float) -> list[str]:
    """Sentences on why a command did not end by itself, if it did not."""
    reasons = []
    if result.timed_out:
        reasons.append(f"It took longer than {limit_seconds:g} s and was ended.")
    if result.oom:
        reasons.append("It took too much memory, or had too many processes, and was ended.")
    if result.over_disk:
        reasons.append("It wrote more than there is room for, and was ended with the workspace.")
    return reasons


def _tagged(name: str, output: bytes) -> list[str]:
    text = output.decode("utf-8", "replace").removesuffix("\n")
    return [f"<{name}>", text, f"</{name}>"] if text else [f"<{name}></{name}>"]


def is_submission(result: ExecResult) -> bool:
    """Did the command say that the work is done?"""
    first, _, _ = result.stdout.lstrip().partition(b"\n")
    return result.exit_code == 0 and not result.timed_out and first.strip() == SUBMIT.encode()
