"""Which backend is chosen, and what is said of it."""

import logging
from pathlib import Path

import pytest

from trieline.envs.errors import SandboxError
from trieline.envs.sandbox import (
    SandboxLimits,
    available_backends,
    backends,
    docker,
    exit_cleanup,
    open_sandbox,
)
from trieline.envs.sandbox import bubblewrap as bubblewrap_backend


@pytest.fixture(autouse=True)
def _choose_anew() -> None:
    backends._choose.cache_clear()


def _set(monkeypatch: pytest.MonkeyPatch, docker: str | None, bubblewrap: str | None) -> None:
    monkeypatch.setattr(backends, "_reason_against_docker", lambda: docker)
    monkeypatch.setattr(bubblewrap_backend, "reason_against", lambda: bubblewrap)


@pytest.mark.parametrize(
    ("docker", "bubblewrap", "expected"),
    [(None, None, "docker"), (None, "no bwrap", "docker"), ("no engine", None, "bubblewrap")],
)
def test_docker_comes_first_and_the_choice_is_said_once(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    docker: str | None,
    bubblewrap: str | None,
    expected: str,
) -> None:
    _set(monkeypatch, docker, bubblewrap)
    with caplog.at_level(logging.INFO):
        assert [backends.resolve_backend("auto") for _ in range(3)] == [expected] * 3
    assert len(caplog.records) == 1
    if docker:
        assert docker in caplog.text


def test_without_any_the_error_says_what_to_run_and_how_to_do_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _set(monkeypatch, "no engine answers", "not installed")
    message = r"no engine answers.*not installed.*apt-get install.*without code"
    with pytest.raises(SandboxError, match=message):
        open_sandbox()
    assert available_backends() == {"docker": "no engine answers", "bubblewrap": "not installed"}


def test_an_engine_that_does_not_answer_is_a_reason_and_leaves_nothing_to_close(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    before = dict(exit_cleanup._open)
    with pytest.raises(SandboxError, match="no Docker Engine answers"):
        docker.Engine()
    assert exit_cleanup._open == before


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(SandboxError, match="podman"):
        backends.resolve_backend("podman")  # type: ignore[arg-type]


def test_unsandboxed_only_by_name_and_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    sandbox = open_sandbox("none", SandboxLimits())
    sandbox.close()
    assert "WITHOUT a sandbox" in caplog.text
