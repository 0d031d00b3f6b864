"""The real mini-swe-agent in our workspace, and the same replies in `trieline/SWE-v0`.

`python -m tests.envs.swe.real_agent` writes real_agent.json, which the tests hold. It needs mini-swe-agent
2.4.6 (the extra `mini-swe-agent`), which is large and may live in an environment of its own.
`benchmarks/mini_swe_agent.py` plays whole sets of tasks both ways.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trieline.envs import make_env
from trieline.envs.swe.mini_swe_agent import TrielineEnvironment
from trieline.envs.swe.observations import SUBMIT
from trieline.envs.swe.repository_env import RepositoryEnv

RECORDED = Path(__file__).with_name("real_agent.json")
ACTION = r"```mswea_bash_command\s*\n(.*?)\n```"
"""How mini-swe-agent finds the command in a reply (`LitellmTextbasedModelConfig.action_regex`)."""
CONFIG = "swebench_backticks.yaml"
SHOWN_BYTES = 10_000
"""Of output, in `trieline/SWE-v0`."""
LOOK = (
    "pwd; git log --oneline | wc -l; git status --short; git ls-files | head -50",
    "true",
    "printf 'no end of line'",
    "echo",
    "ls nowhere",
    "printf '\\303\\244 \\377\\n'",
    "seq 3000",
    "cd /; X=1; exit 3",
    "pwd; echo $X $PAGER",
)
SUBMISSION = f"echo {SUBMIT} && git diff"
SAMPLE: dict[str, tuple[str, ...]] = {
    "larder__larder-1": (
        *LOOK,
        "cat larder/units.py",
        'sed -i \'s/"tbsp": 12/"tbsp": 15/\' larder/units.py && python3 -c '
        '\'from larder.units import convert; print(convert(1, "tbsp", "ml"))\'',
        "git diff",
        f"echo so; echo {SUBMIT}",
        f"echo {SUBMIT}; false",
        SUBMISSION,
    ),
    "larder__larder-2": ("echo '# nothing of use' >> README.md", SUBMISSION),
    "larder__larder-3": (f"echo {SUBMIT}",),
}
SLEEPER = ("larder__larder-4", ("echo 1 > kept; sleep 86311", f"echo {SUBMIT}"), 5.0)
"""A command that takes longer than it may, in seconds."""

Played = dict[str, Any]
"""What came of an episode: `observations` (the last reply has none), `patch`, `reward`, `score`."""


def reply_with(command: str) -> str:
    """As mini-swe-agent asks models to write it."""
    return f"THOUGHT: next.\n\n```mswea_bash_command\n{command}\n```"


TALK = "I would look around first."


def agent_plays(task_id: str, replies: Sequence[str], timeout: float, **settings: Any) -> Played:
    """The agent as it is, with the configuration that comes with it; its model says the replies."""
    os.environ.setdefault("MSWEA_SILENT_STARTUP", "1")
    from minisweagent.agents.default import DefaultAgent
    from minisweagent.config import get_config_from_spec

    config = get_config_from_spec(CONFIG)
    environment_settings = config["environment"] | {"timeout": timeout, "instance_id": task_id} | settings
    del environment_settings["environment_class"]
    environment = TrielineEnvironment(**environment_settings)
    model = _scripted(replies, **config["model"])
    try:
        agent = DefaultAgent(model, environment, **config["agent"] | {"cost_limit": 0.0})
        end = agent.run(environment.statement)
    finally:
        environment.close()
    assert end["exit_status"] == "Submitted", end
    said = [message for message in agent.messages[2:] if message["role"] == "user"]
    return {
        "observations": [message["content"] for message in said],
        "outputs": [_raw(message["extra"]) for message in said],
        "patch": end["submission"],
        "reward": end["reward"],
        "score": end["score"],
    }


def _scripted(
    replies: Sequence[str], *, observation_template: str, format_error_template: str, **_: Any
) -> Any:
    """Its own scripted model, which reads its replies as its own model of a provider does."""
    from minisweagent.models.test_models import DeterministicModel, make_output
    from minisweagent.models.utils.actions_text import parse_regex_actions

    class Scripted(DeterministicModel):  # type: ignore[misc]
        def query(self, messages: list[dict[str, str]], **kwargs: Any) -> dict[str, Any]:
            message: dict[str, Any] = super().query(messages, **kwargs)
            actions = parse_regex_actions(
                message["content"], action_regex=ACTION, format_error_template=format_error_template
            )
            return message | {"extra": message["extra"] | {"actions": actions}}

    outputs = [make_output(reply, [], cost=0.0) for reply in replies]
    return Scripted(outputs=outputs, observation_template=observation_template, cost_per_call=0.0)


def _raw(extra: dict[str, Any]) -> dict[str, Any] | None:
    """What `execute` gave; None where the reply was not understood."""
    if "returncode" not in extra:
        return None
    return {
        "output": extra["raw_output"],
        "returncode": extra["returncode"],
        "exception_info": extra["exception_info"],
    }


def env_plays(task_id: str, replies: Sequence[str], timeout: float, **settings: Any) -> Played:
    """The same replies in our environment."""
    env: Any = make_env("trieline/SWE-v0", command_seconds=timeout, **settings).unwrapped
    assert isinstance(env, RepositoryEnv)
    try:
        env.reset(options={"task_id": task_id})
        observations = []
        for reply in replies:
            observation, reward, terminated, _, info = env.step(reply)
            if terminated:
                break
            observations.append(observation)
        patch = env.patch.decode("utf-8", "surrogateescape")
        return {"observations": observations, "patch": patch, "reward": reward, "score": info["score"]}
    finally:
        env.close()


def in_our_words(observation: str, raw: dict[str, Any] | None) -> str:
    """An observation of mini-swe-agent as `trieline/SWE-v0` puts it: all that differs.

    * The end of a line at the end of the output is not shown, and empty output is one line.
    * Output is too long by its bytes, not its characters (over 10,000 here, 10,000 there), comes without a
      warning and says in another tag how many bytes are left out. This form is made of `raw`, what was run.
    * Why a command was ended stands after the return code, as a note, not before it as an exception.
    * What is no command is answered in one sentence.
    """
    if raw is None:
        return "Expected one block of ```bash, found none."
    ended = re.fullmatch(r"<exception>(.*?)</exception>\n(.*)", observation, flags=re.S)
    code, _, rest = (ended[2] if ended else observation).partition("\n")
    note = [f"<note>{ended[1]}</note>"] if ended else []
    data = raw["output"].encode()
    if len(data) <= SHOWN_BYTES:
        text = rest.removeprefix("<output>\n").removesuffix("</output>")
        return "\n".join([code, *note, _tagged("output", text)])
    head, tail = data[: SHOWN_BYTES // 2], data[-SHOWN_BYTES // 2 :]
    left_out = f"<left_out>{len(data) - SHOWN_BYTES:,} bytes; print less, or to a file</left_out>"
    begin, end = (part.decode("utf-8", "replace") for part in (head, tail))
    return "\n".join([code, *note, _tagged("output_head", begin), left_out, _tagged("output_tail", end)])


def _tagged(name: str, text: str) -> str:
    text = text.removesuffix("\n")
    return f"<{name}>\n{text}\n</{name}>" if text else f"<{name}></{name}>"


def differences(agent: Played, env: Played) -> list[str]:
    """Between the two ways; of the score all but the turns, which here count replies without a command."""
    found = []
    pairs = zip(agent["observations"], agent["outputs"], env["observations"], strict=True)
    for number, (theirs, raw, ours) in enumerate(pairs):
        if (expected := in_our_words(theirs, raw)) != ours:
            found.append(f"observation {number}: {expected[:200]!r} and {ours[:200]!r}")
    for what in ("patch", "reward"):
        if agent[what] != env[what]:
            found.append(f"{what}: {agent[what]!r:.200} and {env[what]!r:.200}")
    if agent["score"] | {"turns": 0} != env["score"] | {"turns": 0}:
        found.append(f"score: {agent['score']} and {env['score']}")
    return found


def recordings() -> list[Played]:
    """Of the sample."""
    plays = [(task_id, commands, 60.0) for task_id, commands in SAMPLE.items()] + [SLEEPER]
    made = []
    for task_id, commands, timeout in plays:
        replies = [TALK, *map(reply_with, commands)]
        played = agent_plays(task_id, replies, timeout)
        made.append({"task_id": task_id, "timeout": timeout, "replies": replies, **played})
    return made


if __name__ == "__main__":
    RECORDED.write_text(json.dumps(recordings(), indent=1) + "\n")
