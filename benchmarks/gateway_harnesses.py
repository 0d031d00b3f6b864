"""The clients that `benchmarks.gateway_clients` runs: how each is installed, told where to ask, started."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import gateway_programs

Step = str | tuple[str, dict[str, Any]]
"""What the policy says next: a text, or a tool and its arguments."""
LAST = "Done and dusted."
"""What it says at the end, by which an agent that heard all of it is known."""
GREET, GREETING = "Say hi.", "Hi from below, said by a sub-agent."
"""What a sub-agent is sent for, and what the policy says to that, whoever else asks meanwhile."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a client runs."""

    home: Path
    work: Path
    urls: Mapping[str, str]
    """`openai_base_url`, `anthropic_base_url`."""
    key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Client:
    """One way to ask."""

    pip: Sequence[str] = ()
    npm: str = ""
    program: str = ""
    """Of `gateway_programs`; it becomes the file `{agent}`."""
    command: Sequence[str] = ("{python}", "{agent}")
    """`{bin}`: the folder of its programs; `{python}`: its interpreter; `{openai}`: the base URL."""
    steps: Sequence[Step]
    setup: Callable[[Place], None] = lambda place: None
    env: Mapping[str, str] = field(default_factory=dict)
    says_last: bool = True
    """Whether its output ends with what the policy said last."""


def _codex(place: Place) -> None:
    """Codex takes its provider from its configuration alone."""
    provider = {"name": "gateway", "base_url": place.urls["openai_base_url"], "env_key": "OPENAI_API_KEY"}
    lines = ['model = "policy"', 'model_provider = "gateway"', 'approval_policy = "never"']
    lines += ['sandbox_mode = "danger-full-access"', "model_auto_compact_token_limit = 1000000"]
    lines += ["[model_providers.gateway]", 'wire_api = "responses"']
    lines += [f"{name} = {json.dumps(value)}" for name, value in provider.items()]
    (place.home / "config.toml").write_text("\n".join(lines) + "\n")


def _codex_that_compacts(place: Place) -> None:
    _codex(place)
    config = place.home / "config.toml"
    config.write_text(config.read_text().replace("token_limit = 1000000", "token_limit = 1000"))


def _opencode(place: Place) -> None:
    options = {"baseURL": place.urls["openai_base_url"], "apiKey": place.key}
    model = {"name": "policy", "tool_call": True, "limit": {"context": 1_000_000, "output": 4_000}}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "gateway",
        "options": options,
        "models": {"policy": model},
    }
    config = {"model": "gateway/policy", "small_model": "gateway/policy", "provider": {"gateway": provider}}
    (place.work / "opencode.json").write_text(json.dumps(config | {"autoupdate": False, "share": "disabled"}))


def _pi(place: Place) -> None:
    model = {"id": "policy", "contextWindow": 1_000_000, "maxTokens": 4_000}
    provider = {
        "baseUrl": place.urls["openai_base_url"],
        "api": "openai-completions",
        "apiKey": place.key,
        "models": [model],
    }
    folder = place.home / ".pi" / "agent"
    folder.mkdir(parents=True)
    (folder / "models.json").write_text(json.dumps({"providers": {"gateway": provider}}))


_LOOKS: tuple[Step, ...] = (("look", {"what": "a"}), ("look", {"what": "ü"}), LAST)
_CODEX = ("{bin}/codex", "exec", "--skip-git-repo-check", "Look around.")
_CLAUDE = (
    *("{bin}/claude", "-p", "Look around.", "--model", "policy"),
    "--dangerously-skip-permissions",
)


_CLAUDE_ENV = {
    "IS_SANDBOX": "1",
    "DISABLE_AUTOUPDATER": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
}


def _claude_agent(prompt: str) -> Step:
    return ("Agent", {"description": "Hi", "prompt": prompt, "subagent_type": "general-purpose"})


def _shell(tool: str, key: str, *commands: str, **more: Any) -> list[Step]:
    return [(tool, {key: command, **more}) for command in commands]


CLIENTS: dict[str, Client] = {
    "openai": Client(
        pip=["openai"],
        program=gateway_programs.OPENAI,
        command=["{python}", "{agent}", "whole"],
        steps=_LOOKS,
    ),
    "openai-streamed": Client(
        pip=["openai"],
        program=gateway_programs.OPENAI,
        command=["{python}", "{agent}", "stream"],
        steps=_LOOKS,
    ),
    "anthropic": Client(
        pip=["anthropic"],
        program=gateway_programs.ANTHROPIC,
        command=["{python}", "{agent}", "whole"],
        steps=_LOOKS,
    ),
    "anthropic-streamed": Client(
        pip=["anthropic"],
        program=gateway_programs.ANTHROPIC,
        command=["{python}", "{agent}", "stream"],
        steps=_LOOKS,
    ),
    "openai-agents": Client(
        pip=["openai-agents"],
        program=gateway_programs.OPENAI_AGENTS,
        command=["{python}", "{agent}", "responses"],
        steps=_LOOKS,
    ),
    "openai-agents-chat": Client(
        pip=["openai-agents"],
        program=gateway_programs.OPENAI_AGENTS,
        command=["{python}", "{agent}", "chat_completions"],
        steps=_LOOKS,
    ),
    "pydantic-ai": Client(
        pip=["pydantic-ai-slim[openai,anthropic]"],
        program=gateway_programs.PYDANTIC_AI,
        command=["{python}", "{agent}", "chat"],
        steps=_LOOKS,
    ),
    "pydantic-ai-messages": Client(
        pip=["pydantic-ai-slim[openai,anthropic]"],
        program=gateway_programs.PYDANTIC_AI,
        command=["{python}", "{agent}", "messages"],
        steps=_LOOKS,
    ),
    "langgraph": Client(
        pip=["langgraph", "langchain-openai", "langchain-anthropic"],
        program=gateway_programs.LANGGRAPH,
        command=["{python}", "{agent}", "chat"],
        steps=_LOOKS,
    ),
    "langgraph-messages": Client(
        pip=["langgraph", "langchain-openai", "langchain-anthropic"],
        program=gateway_programs.LANGGRAPH,
        command=["{python}", "{agent}", "messages"],
        steps=_LOOKS,
    ),
    "smolagents": Client(
        pip=["smolagents[openai]", "openai"],
        program=gateway_programs.SMOLAGENTS,
        steps=[*_LOOKS[:2], ("final_answer", {"answer": LAST})],
    ),
    "mini-swe-agent": Client(
        pip=["mini-swe-agent"],
        command=[
            *("{bin}/mini", "-m", "openai/policy", "-t", "Look around.", "-y", "--exit-immediately"),
            *("-o", "trajectory.json"),
        ],
        env={"MSWEA_CONFIGURED": "1", "MSWEA_COST_TRACKING": "ignore_errors", "OPENAI_API_BASE": "{openai}"},
        steps=_shell("bash", "command", "echo one", "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"),
        says_last=False,
    ),
    "aider": Client(
        pip=["aider-chat"],
        command=[
            *("{bin}/aider", "--model", "openai/policy", "--message", "Look around.", "--yes-always"),
            *("--no-git", "--no-check-update", "--no-show-model-warnings", "--no-analytics"),
        ],
        env={"OPENAI_API_BASE": "{openai}"},
        steps=[LAST],
    ),
    "codex": Client(
        npm="@openai/codex",
        command=_CODEX,
        setup=_codex,
        steps=[
            *_shell("exec_command", "cmd", "echo one"),
            ("spawn_agent", {"message": GREET}),
            *_shell("exec_command", "cmd", "sleep 2; echo two"),
            LAST,
        ],
    ),
    "codex-compacting": Client(
        npm="@openai/codex",
        command=_CODEX,
        setup=_codex_that_compacts,
        steps=[
            *_shell("exec_command", "cmd", "echo one"),
            "A summary: one was said, two is to come.",
            *_shell("exec_command", "cmd", "echo two"),
            "A summary: one and two were said.",
            LAST,
        ],
    ),
    "claude-code": Client(
        npm="@anthropic-ai/claude-code",
        command=_CLAUDE,
        env=_CLAUDE_ENV,
        steps=[
            *_shell("Bash", "command", "echo one", description="Say one"),
            _claude_agent(GREET),
            *_shell("Bash", "command", "echo two", description="Say two"),
            LAST,
        ],
    ),
    "claude-code-nested": Client(
        npm="@anthropic-ai/claude-code",
        command=_CLAUDE,
        env=_CLAUDE_ENV,
        steps=[
            _claude_agent("Let another greet."),
            _claude_agent(GREET),
            "The other greeted, says the one between.",
            LAST,
        ],
    ),
    "claude-code-compacting": Client(
        npm="@anthropic-ai/claude-code",
        command=_CLAUDE,
        env=_CLAUDE_ENV
        | {"CLAUDE_CODE_AUTO_COMPACT_WINDOW": "100000", "CLAUDE_AUTOCOMPACT_PCT_OVERRIDE": "80"},
        steps=[
            *_shell("Bash", "command", "seq 4500", "echo zero", description="Count"),
            "<summary>\nNumbers were counted, and one is to be said.\n</summary>",
            *_shell("Bash", "command", "echo one", description="Say one"),
            LAST,
        ],
    ),
    "opencode": Client(
        npm="opencode-ai",
        command=["{bin}/opencode", "run", "Look around."],
        setup=_opencode,
        env={"OPENCODE_DISABLE_AUTOUPDATE": "1"},
        steps=[
            *_shell("bash", "command", "echo one", description="Say one"),
            ("task", {"description": "Hi", "prompt": GREET, "subagent_type": "general"}),
            LAST,
        ],
    ),
    "pi": Client(
        npm="@mariozechner/pi-coding-agent",
        command=["{bin}/pi", "--model", "gateway/policy", "-p", "Look around."],
        setup=_pi,
        env={"PI_OFFLINE": "1"},
        steps=[*_shell("bash", "command", "echo one", "echo two"), LAST],
    ),
    "qwen-code": Client(
        npm="@qwen-code/qwen-code",
        command=["{bin}/qwen", "--auth-type", "openai", "--yolo", "-p", "Look around."],
        env={"OPENAI_MODEL": "policy"},
        steps=[
            *_shell("run_shell_command", "command", "echo one", description="Say one", is_background=False),
            ("agent", {"description": "Hi", "prompt": GREET, "subagent_type": "general-purpose"}),
            LAST,
        ],
    ),
}
"""By name. Claude Code's licence is no open one: it is run by hand alone."""
HERE = ("openai-streamed", "anthropic-streamed")
"""Those whose libraries are installed with the tests."""
APART = ("openai-agents", "openai-agents-chat", "mini-swe-agent", "codex")
"""Those that `make test` installs in folders of their own, where it can."""


def python_of(folder: Path | None) -> Path:
    """The interpreter of a client. None: this one."""
    return Path(sys.executable) if folder is None else folder / "bin" / "python"
