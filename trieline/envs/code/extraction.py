"""From a reply to the source of a function: fences, chatter and a missing `def` are forgiven.

Works on the text alone. Nothing a model wrote is parsed by Python, let alone run, outside of the sandbox.
"""

import re
import textwrap

from trieline.envs.code.runner import NAME

READ_LENGTH = 10_000
"""Characters of a reply that are looked at."""

FENCE = re.compile(r"```[ \t]*(?:python3?|py)?[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
DEFINITION = re.compile(r"^[ \t]*def\s+\w+\s*\(", re.MULTILINE)
DEFINITION_IN_LINE = re.compile(r"\bdef\s+\w+\s*\(")
IMPORT = re.compile(r"^(?:import|from)\s.*$", re.MULTILINE)
# Blanks only: newlines would be tried again from each line that begins with one.
RETURN = re.compile(r"^[ \t]*return\b", re.MULTILINE)
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
