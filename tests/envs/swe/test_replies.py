"""Exactly one block in a reply is an action; of anything else the agent is told what was expected."""

import pytest

from trieline.envs.swe.replies import (
    MOST_COMMAND,
    READ_LENGTH,
    Command,
    Edit,
    Misunderstood,
    read_reply,
    written,
)

EDIT = "```edit\na/b.py\n<<<<<<< SEARCH\nx = 1\n\n=======\nx = 2\n>>>>>>> REPLACE\n```\n"


@pytest.mark.parametrize(
    ("reply", "line"),
    [
        ("```bash\nls\n```", "ls"),
        ("THOUGHT: look.\n\n```mswea_bash_command\nls -la\n```\nThen more.", "ls -la"),
        ("```sh\ncat <<'E'\na\n\n b\nE\n```", "cat <<'E'\na\n\n b\nE"),
        ("```Bash\r\nls\r\n```\r\n", "ls"),
        ("  ```bash  \nls\n  ```  ", "ls"),
        ("```python\nprint('```bash')\n```\n```bash\nls\n```", "ls"),
        ("```text\n```bash\nrm x\n```\n\n```bash\nls\n```", "ls"),
        ("````bash\ncat > a.md <<E\n```python\nx\n```\nE\n````", "cat > a.md <<E\n```python\nx\n```\nE"),
        ("```bash\necho 'größer ☕'\n```", "echo 'größer ☕'"),
    ],
)
def test_one_block_is_a_command(reply: str, line: str) -> None:
    assert read_reply(reply, edits=False) == Command(line=line)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ("", "Expected one block of ```bash, found none."),
        ("ls -la", "found none."),
        ("`ls`", "found none."),
        ("```\nls\n```", "found none."),
        ("```bash ls```", "found none."),
        ("```bash\nls", "found none. The last block has no end: a line ``` is missing."),
        ("```bash\nls\n```\n```bash\npwd\n```", "found 2."),
        ("```bash\n\n```", "Expected a command of 1 to 90,000 bytes, got 0."),
        (f"```bash\n{'é' * (MOST_COMMAND // 2 + 1)}\n```", "got 90,002."),
        ("x" * (READ_LENGTH + 1), "Expected at most 400,000 characters, got 400,001."),
        ("```bash\nls\0\n```", "Expected Unicode text without NUL"),
        ("```bash\nls \ud800\n```", "Expected Unicode text without NUL"),
        (EDIT, "Expected one block of ```bash, found none."),
    ],
)
def test_anything_else_is_told(reply: str, message: str) -> None:
    found = read_reply(reply, edits=False)
    assert isinstance(found, Misunderstood)
    assert message in found.message


def test_a_block_may_be_an_edit_where_there_are_edits() -> None:
    assert read_reply(EDIT, edits=True) == Edit(path="a/b.py", search="x = 1\n", replace="x = 2")
    assert read_reply("```bash\nls\n```", edits=True) == Command(line="ls")
    both = read_reply(f"{EDIT}```bash\nls\n```", edits=True)
    assert both == Misunderstood(message="Expected one block of ```bash or ```edit, found 2.")
    new = read_reply(EDIT.replace("x = 1\n\n", ""), edits=True)
    assert new == Edit(path="a/b.py", search="", replace="x = 2")


@pytest.mark.parametrize(
    "changed",
    [
        EDIT.replace("a/b.py\n", ""),
        EDIT.replace("=======\n", ""),
        EDIT.replace("x = 1", "======="),
        EDIT.replace(">>>>>>> REPLACE", ">>>>>>> REPLACE\nmore"),
        "```edit\n```",
        "```edit\na/b.py\n```",
    ],
)
def test_an_edit_that_is_none_is_told(changed: str) -> None:
    found = read_reply(changed, edits=True)
    assert isinstance(found, Misunderstood)
    assert found.message.startswith("Expected in the block the path of a file, then the lines")


@pytest.mark.parametrize("line", ["ls", "cat <<E\n```\nE", "echo '````'"])
def test_what_is_written_is_read(line: str) -> None:
    assert read_reply(f"So:\n\n{written(line)}\n", edits=True) == Command(line=line)


@pytest.mark.parametrize("reply", ["ls -la", "  ls -la\n", "```bash\nls -la\n```"])
def test_a_bare_line_is_a_command_where_it_may_be(reply: str) -> None:
    assert read_reply(reply, edits=False, bare=True) == Command(line="ls -la")


@pytest.mark.parametrize("reply", ["", "ls\npwd", "```ls```", "x" * (MOST_COMMAND + 1)])
def test_other_bare_replies_are_none(reply: str) -> None:
    assert isinstance(read_reply(reply, edits=False, bare=True), Misunderstood)
