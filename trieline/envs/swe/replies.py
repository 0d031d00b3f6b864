"""What an agent's reply asks for: exactly one fenced block with a command for bash, or with an edit.

This is the protocol of mini-swe-agent 2 for models without tool calls (`swebench_backticks.yaml`), and its
fence is read, too. Fences are those of CommonMark: a block ends at a line of as many backticks or more, so a
command that itself holds ``` goes between fences of four. Blocks of any other language are talk.
"""

import re
from dataclasses import dataclass

BASH = frozenset({"bash", "sh", "shell", "mswea_bash_command"})
EDIT = "edit"
READ_LENGTH = 400_000
"""Characters of a reply; more than a command may have."""
MOST_COMMAND = 90_000
"""Bytes of a command: it is handed to a shell as one word, of which Linux takes 128 KiB."""
SEARCH, DIVIDE, REPLACE = "<<<<<<< SEARCH", "=======", ">>>>>>> REPLACE"
NO_TEXT = "Expected Unicode text without NUL, got something else."

_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_FENCE = re.compile(r" {0,3}(`{3,})[ \t]*([\w+-]*)[ \t]*\r?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A line of shell, or several."""

    line: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Edit:
    """One exact text of one file, to be replaced by another."""

    path: str
    search: str
    """It is there exactly once. Empty: the file is new."""
    replace: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Misunderstood:
    """No action is to be found in the reply."""

    message: str
    """What was expected and what came."""


def read_reply(reply: str, *, edits: bool, bare: bool = False) -> Command | Edit | Misunderstood:
    """The one action in a reply.

    `edits`: it may be an edit, too. `bare`: a reply of one line without a fence is a command.
    """
    what = "one block of ```bash or ```edit" if edits else "one block of ```bash"
    if len(reply) > READ_LENGTH:
        return Misunderstood(message=f"Expected at most {READ_LENGTH:,} characters, got {len(reply):,}.")
    if _NO_TEXT.search(reply):
        return Misunderstood(message=NO_TEXT)
    if bare and (line := reply.strip()) and "\n" not in line and "```" not in line:
        problem = problem_of_command(line)
        return Misunderstood(message=problem) if problem else Command(line=line)
    languages = BASH | {EDIT} if edits else BASH
    blocks, unclosed = _blocks(reply)
    found = [(language, body) for language, body in blocks if language in languages]
    if len(found) != 1:
        hint = " The last block has no end: a line ``` is missing." if unclosed in languages else ""
        return Misunderstood(message=f"Expected {what}, found {len(found) or 'none'}.{hint}")
    language, body = found[0]
    if language == EDIT:
        return _read_edit(body)
    line = "\n".join(body).strip()
    if problem := problem_of_command(line):
        return Misunderstood(message=problem)
    return Command(line=line)


def problem_of_command(line: str) -> str:
    """Why a shell can't be asked to run it; "" if it can."""
    if _NO_TEXT.search(line):
        return NO_TEXT
    size = len(line.encode())
    return (
        ""
        if 0 < size <= MOST_COMMAND
        else f"Expected a command of 1 to {MOST_COMMAND:,} bytes, got {size:,}."
    )


def written(line: str) -> str:
    """The reply that asks for a command."""
    longest = max((len(ticks) for ticks in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}bash\n{line}\n{fence}"


def _blocks(reply: str) -> tuple[list[tuple[str, list[str]]], str]:
    """Language and lines of each block, and the language of one that never ends."""
    blocks: list[tuple[str, list[str]]] = []
    fence, language, body = "", "", list[str]()
    for line in reply.split("\n"):
        match = _FENCE.fullmatch(line)
        if not fence:
            if match:
                fence, language, body = match[1], match[2].lower(), []
        elif match and len(match[1]) >= len(fence) and not match[2]:
            blocks.append((language, body))
            fence = ""
        else:
            body.append(line)
    return blocks, language if fence else ""


def _read_edit(body: list[str]) -> Edit | Misunderstood:
    """A path, then what to look for and what to put there, between lines of their own."""
    lines = [line.removesuffix("\r") for line in body]
    marks = [lines.count(mark) for mark in (SEARCH, DIVIDE, REPLACE)]
    path = lines[0].strip() if lines else ""
    if not path or path == SEARCH or marks != [1, 1, 1] or lines[1] != SEARCH or lines[-1] != REPLACE:
        return Misunderstood(
            message=f"Expected in the block the path of a file, then the lines {SEARCH!r}, {DIVIDE!r} and "
            f"{REPLACE!r}, once each and in this order, got {marks[0]}, {marks[1]} and {marks[2]} of them."
        )
    divide = lines.index(DIVIDE)
    return Edit(path=path, search="\n".join(body[2:divide]), replace="\n".join(body[divide + 1 : -1]))
