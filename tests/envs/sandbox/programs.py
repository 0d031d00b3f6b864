"""Small programs that the tests run in a sandbox."""

from trieline.envs.sandbox import ExecResult, Sandbox


def run_python(
    sandbox: Sandbox, code: str, *, stdin: bytes = b"", wall_seconds: float | None = None
) -> ExecResult:
    """`code` under the sandbox's own Python."""
    return sandbox.exec(["python3", "-I", "-S", "-c", code], stdin=stdin, wall_seconds=wall_seconds)


def said(sandbox: Sandbox, code: str) -> str:
    """What `code` prints; it must end well."""
    result = run_python(sandbox, code)
    assert result.exit_code == 0, result
    return result.stdout.decode().strip()
