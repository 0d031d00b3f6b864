"""From a reply to the source of a function: fences, chatter and a missing `def` are forgiven.

Works on the text alone. Nothing a model wrote is parsed by Python, let alone run, outside of the sandbox.
"""

import re
import textwrap

from trieline.envs.code.runner import NAME

READ_LENGTH = 10_000
"""Characters of a reply that are looked at."""
MOST_PROGRAM = 100_000
"""And of one that is to be a whole program, from its end."""

FENCE = re.compile(r"```[ \t]*(?:python3?|py)?[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
DEFINITION = re.compile(r"^[ \t]*def\s+\w+\s*\(", re.MULTILINE)
DEFINITION_IN_LINE = re.compile(r"\bdef\s+\w+\s*\(")
IMPORT = re.compile(r"^(?:import|from)\s.*$", re.MULTILINE)
# Blanks only: newlines would be tried again from each line that begins with one.
RETURN = re.compile(r"^[ \t]*return\b", re.MULTILINE)
_KEYWORDS = "def|class|import|from|if|for|while|try|except|finally|else|elif|with"
TOP_LINE = re.compile(
    rf"(?:async[ \t]+)?(?:{_KEYWORDS})\b|@|#|[)\]}}]|\w+[ \t]*(?::[^=]*)?=[^=]|print\(|main\("
)
"""What a line of a program may begin with at its top."""
ASSIGNMENT = re.compile(rf"^{NAME}\s*=\s*lambda\b.*$", re.MULTILINE)


def extract_source(reply: str, params: str) -> str:
    """Python source that defines the function if the reply holds one. `params` is its parameter list.

    Taken as an answer, in this order: a `def`, with the imports above it; `f = lambda ...`; a body that
    returns; an expression.
    """
    text = reply[:READ_LENGTH]
    if fence := FENCE.search(text):
        text = fence[1]
    if definition := DEFINITION.search(text) or DEFINITION_IN_LINE.search(text):
        imports = "\n".join(IMPORT.findall(text[: definition.start()]))
        return f"{imports}\n{definition_block(text[definition.start() :])}".strip("\n")
    if assignment := ASSIGNMENT.search(text):
        return assignment[0]
    body = textwrap.dedent(text.strip("\n").strip("`")).strip()
    if RETURN.search(body):
        return f"def {NAME}({params}):\n{textwrap.indent(body, '    ')}"
    return (
        f"{NAME} = {body}"
        if body.startswith("lambda")
        else f"def {NAME}({params}):\n    return ({body}\n    )"
    )


def definition_block(text: str) -> str:
    """The definition that `text` starts with, without what follows it at its own depth."""
    first, *rest = text.split("\n")
    depth = len(first) - len(first.lstrip())
    kept = [first]
    for line in rest:
        if line.strip() and len(line) - len(line.lstrip()) <= depth:
            break
        kept.append(line)
    return textwrap.dedent("\n".join(kept)).rstrip()


def completed_source(reply: str, start: str, name: str) -> str:
    """A program out of a reply that was to go on with `start`, or to say it again; `name` is its function.

    A reply that defines the function is the program, behind the imports and helpers that `start` has; else it
    is the body. A `start` that is empty has neither.
    """
    defined = re.compile(rf"^[ \t]*(?:async[ \t]+)?def[ \t]+{name}\b", re.MULTILINE)
    blocks = FENCE.findall(reply[-MOST_PROGRAM:])
    text = next((block for block in reversed(blocks) if defined.search(block)), "")
    if not text:
        text = blocks[-1] if blocks else reply[:READ_LENGTH]
    if defined.search(text) or not start:
        begins = defined.search(start)
        head = start[: begins.start()] if begins else ""
        return f"{head}\n{text if blocks else _program_lines(text)}".strip("\n")
    return f"{start.rstrip()}\n{_body(text)}"


def _program_lines(text: str) -> str:
    """Without the sentences around a program: lines of the top that begin nothing of Python."""
    kept, inside = [], False
    for line in textwrap.dedent(text).split("\n"):
        if line.strip() and not line[0].isspace():
            inside = TOP_LINE.match(line) is not None
        if inside or not line.strip():
            kept.append(line)
    return "\n".join(kept)


def _body(text: str) -> str:
    """A body, put in by four blanks where it stands at the top, and cut where something else begins."""
    lines = text.strip("\n").split("\n")
    if lines and lines[0][:1] not in (" ", "\t"):
        # The first line alone may have lost its blanks, as a prompt's continuation does.
        rest = [line for line in lines[1:] if line.strip()]
        whole = all(line[:1] in (" ", "\t") for line in rest) and rest and not lines[0].rstrip().endswith(":")
        return (
            "\n".join([f"    {lines[0]}", *lines[1:]]) if whole else textwrap.indent("\n".join(lines), "    ")
        )
    kept = []
    for line in lines:
        if line.strip() and line[:1] not in (" ", "\t"):
            break
        kept.append(line)
    return "\n".join(kept)


def whole_program(reply: str) -> str:
    """The program of a reply: its last block of code, else all of it that may be Python."""
    text = reply[-MOST_PROGRAM:]
    blocks = FENCE.findall(text)
    return blocks[-1] if blocks else _program_lines(text)
