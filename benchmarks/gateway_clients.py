"""Real clients against the gateway, with a policy behind it that says what it is told to.

    python -m benchmarks.gateway_clients --install clients                 installs and runs all of them
    python -m benchmarks.gateway_clients --install clients codex aider     some
    python -m benchmarks.gateway_clients openai anthropic                  what is installed here
    python -m benchmarks.gateway_clients --install clients --tested --only-install codex

The policy writes calls and texts in the model's own template, token for token, with thoughts in the first
reply and late in the second, so that streams have to be kept alive. Each client plays one session. It
finished if it ended well and heard the last reply; and the session's tree holds what the policy sampled, each
reply once, after the very tokens that the policy saw before it. Beside the tokens of the tree stands what a
trainer would read that made a row of every turn, or of every sequence without its forks. Installing needs
pip's index and npm, and a client sends to its makers what its own settings say. Written to
`benchmarks/results/`.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gateway_harnesses import CLIENTS, GREET, GREETING, LAST, Client, Place, Step, python_of
from tests.actors.chat_folder import write_chat_folder
from tests.actors.gateway import desk
from tests.actors.scripted_policy import completion
from tests.actors.tool_styles import HERMES
from trieline.actors.chat import ChatRenderer
from trieline.actors.gateway.config import GatewayConfig
from trieline.actors.gateway.exchange import Closed, Rewarded
from trieline.actors.gateway.gateway import Gateway
from trieline.actors.gateway.session import Session
from trieline.actors.gateway.session_tree import session_tree
from trieline.common.arrays import Int32
from trieline.common.message import ToolCall
from trieline.envs.tool_calls import write_calls
from trieline.wire.messages import Completion, Sampling
from trieline.wire.tree import TrajectoryTree

RESULTS = Path(__file__).parent / "results" / "gateway_clients.json"
TIMEOUT_S = 180.0
"""For a client to finish."""
KEEP_ALIVE_S = 0.2
LATE_S = 0.7
ASIDE = "A short title for it"
"""What the policy says when none of its tools is offered, as in a request for a title."""
_USER = "<|im_start|>user"
LIMITS = dataclasses.replace(desk.LIMITS, max_tokens=4_000, max_context=2_000_000, timeout_s=60.0)


class SteppingPolicy:
    """Says one step after the other, to whoever asks with the tool that it needs."""

    def __init__(self, renderer: ChatRenderer, steps: Sequence[Step]) -> None:
        self._renderer = renderer
        self._steps = [*steps]
        self._tools = {step[0] for step in steps if not isinstance(step, str)}
        self.prompts: list[Int32] = []
        self.sampled: list[Completion] = []

    async def generate(
        self, prompt: Int32, sampling: Sampling, *, timeout_s: float, task: str = ""
    ) -> Completion:
        number = len(self.prompts)
        self.prompts.append(prompt)
        text = self._next(self._renderer.decode(prompt))
        if number == 0:
            text = f"<think>\nFirst I look.\n</think>\n\n{text}"
        made = completion(self._renderer.reply_tokens(text)[: sampling.max_tokens], request_id=number)
        self.sampled.append(made)
        await asyncio.sleep(LATE_S if number == 1 else 0)
        return made

    def _next(self, prompt: str) -> str:
        if GREET in prompt.rpartition(_USER)[2]:
            return GREETING
        step = self._steps[0] if self._steps else ASIDE
        needed = {step[0]} if not isinstance(step, str) else self._tools
        if not self._steps or (needed and not any(f'"name": "{tool}"' in prompt for tool in needed)):
            return ASIDE
        self._steps.pop(0)
        if isinstance(step, str):
            return step
        return write_calls("Now.", [ToolCall(name=step[0], arguments=step[1])])


def folder_of(client: Client, clients: Path) -> Path:
    """Where it is installed among the others."""
    return clients.resolve() / (client.npm or client.pip[0]).replace("/", "_")


def is_installed(client: Client, folder: Path) -> bool:
    """To its end."""
    return (folder / "installed").exists()


def install(client: Client, folder: Path, version: str = "") -> str:
    """Into `folder`, unless it is there. Returns what went wrong. `version`: "" for the newest."""
    if is_installed(client, folder):
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    if client.npm:
        commands = [["npm", "install", "--no-fund", "--no-audit", "--prefix", str(folder)]]
        commands[0].append(f"{client.npm}@{version}" if version else client.npm)
    else:
        pip = [str(python_of(folder)), "-m", "pip", "install", "--quiet", *client.pip]
        pip += [f"{client.pip[0].partition('[')[0]}=={version}"] if version else []
        commands = [[sys.executable, "-m", "venv", str(folder)], pip]
    for command in commands:
        if shutil.which(command[0]) is None:
            return f"{command[0]} is not installed"
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return done.stderr.strip()[-300:]
    (folder / "installed").touch()
    return ""


def version_of(client: Client, folder: Path | None) -> str:
    """Of what is installed."""
    if client.npm:
        package = _npm_programs(folder).parent / client.npm / "package.json"
        return str(json.loads(package.read_text())["version"])
    name = client.pip[0].partition("[")[0]
    code = f"from importlib.metadata import version; print(version({name!r}))"
    command = [str(python_of(folder)), "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


async def play(client: Client, folder: Path | None) -> dict[str, Any]:
    """One session of it. `folder`: where it is installed; None: in this interpreter."""
    with tempfile.TemporaryDirectory() as scratch:
        place_of = Path(scratch)
        model = write_chat_folder(
            place_of / "model", template=HERMES.template, eos=HERMES.eos, special=HERMES.special
        )
        renderer = ChatRenderer(model, system_prompt="")
        policy = SteppingPolicy(renderer, client.steps)
        ended: list[Session] = []

        async def keep(session: Session) -> None:
            ended.append(session)

        gateway = Gateway(
            GatewayConfig(port=0, keep_alive_s=KEEP_ALIVE_S),
            renderer=renderer,
            policy=policy,
            limits=LIMITS,
            on_end=keep,
        )
        await gateway.start()
        try:
            session = gateway.sessions.open(task_id="look")
            place = Place(
                home=place_of / "home",
                work=place_of / "work",
                urls=gateway.server.urls(session),
                key=session.opened.key,
            )
            started = time.monotonic()
            status, output = await _run(client, place, folder)
            seconds = time.monotonic() - started
            session.apply(Rewarded(reward=1.0))
            gateway.sessions.close(session, Closed())
            await gateway.sessions.finish()
        finally:
            await gateway.close()
    heard = status == 0 and (LAST in output or not client.says_last)
    report = {"version": version_of(client, folder), "finished": heard, **_seen(ended, policy)}
    report["seconds"] = round(seconds, 1)
    if not heard:
        report |= {"status": status, "output": output[-2000:]}
    return report


async def _run(client: Client, place: Place, folder: Path | None) -> tuple[int, str]:
    for made in (place.home, place.work):
        made.mkdir()
    (place.home / "agent.py").write_text(client.program)
    client.setup(place)
    programs = python_of(folder).parent if not client.npm else _npm_programs(folder)
    names = {
        "{bin}": str(programs),
        "{python}": str(python_of(folder)),
        "{agent}": str(place.home / "agent.py"),
        "{openai}": place.urls["openai_base_url"],
    }
    env = {name: os.environ[name] for name in ("LANG", "SSL_CERT_FILE") if name in os.environ}
    env |= {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(place.home),
        "CODEX_HOME": str(place.home),
    }
    env |= {"OPENAI_API_KEY": place.key, "OPENAI_BASE_URL": place.urls["openai_base_url"]}
    env |= {"ANTHROPIC_API_KEY": place.key, "ANTHROPIC_BASE_URL": place.urls["anthropic_base_url"]}
    env |= {name: _filled(value, names) for name, value in client.env.items()}
    process = await asyncio.create_subprocess_exec(
        *(_filled(word, names) for word in client.command),
        cwd=place.work,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    except TimeoutError:
        return -1, f"not done after {TIMEOUT_S:g} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it leaves behind
    return process.returncode or 0, output.decode(errors="replace")


def _filled(word: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        word = word.replace(name, value)
    return word


def _npm_programs(folder: Path | None) -> Path:
    if folder is None:
        msg = "expected --install for a client of npm, got none"
        raise SystemExit(msg)
    return folder / "node_modules" / ".bin"


def _seen(sessions: Sequence[Session], policy: SteppingPolicy) -> dict[str, Any]:
    """What the sessions' tree shows of all that the policy sampled."""
    tree = session_tree(sessions, env_id="clients", task_id="look")
    tree.validate()
    sampled = np.asarray(tree.sampled)
    causes = Counter(cause for cause in tree.fork_causes if cause)
    in_tree = sum(len(tree.token_ids[tree.node_tokens(int(n))]) for n in np.flatnonzero(sampled))
    return {
        "requests": len(policy.prompts),
        "sessions": len(sessions),
        "sequences": tree.num_leaves,
        "branches": dict(causes),
        "edges": dict(Counter(tree.edge_kinds)),
        "sampled_by_policy": sum(len(c.token_ids) for c in policy.sampled),
        "sampled_in_tree": in_tree,
        "each_once": _paths(tree) == _asked(policy),
        "every_turn_a_row": sum(map(len, policy.prompts)) + in_tree,
        "every_sequence_a_row": sum(_length(tree, int(leaf)) for leaf in tree.leaf_nodes),
        "tokens_in_tree": tree.num_tokens,
    }


def _length(tree: TrajectoryTree, node: int) -> int:
    return sum(len(tree.token_ids[tree.node_tokens(n)]) for n in tree.path(node))


def _paths(tree: TrajectoryTree) -> list[tuple[bytes, bytes]]:
    found = []
    for node in np.flatnonzero(tree.sampled):
        *before, own = (tree.token_ids[tree.node_tokens(n)] for n in tree.path(int(node)))
        found.append((np.concatenate(before).tobytes(), own.tobytes()))
    return sorted(found)


def _asked(policy: SteppingPolicy) -> list[tuple[bytes, bytes]]:
    pairs = zip(policy.prompts, policy.sampled, strict=True)
    return sorted((prompt.tobytes(), made.token_ids.tobytes()) for prompt, made in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clients", nargs="*", help=f"of {', '.join(CLIENTS)}; without it all of them")
    parser.add_argument("--install", type=Path, help="folder for the clients; without it, what is here")
    parser.add_argument("--tested", action="store_true", help="install the versions of the last results")
    parser.add_argument("--only-install", action="store_true", help="play nothing")
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if unknown := set(arguments.clients) - set(CLIENTS):
        parser.error(f"expected clients of {', '.join(CLIENTS)}, got {', '.join(sorted(unknown))}")
    tested = json.loads(RESULTS.read_text()) if arguments.tested else {}
    reports: dict[str, dict[str, Any]] = {}
    for name in arguments.clients or CLIENTS:
        client, folder = CLIENTS[name], None
        if arguments.install is not None:
            folder = folder_of(client, arguments.install)
            if why := install(client, folder, tested.get(name, {}).get("version", "")):
                print(f"{name}: can't be installed: {why}", flush=True)
                reports[name] = {"finished": False, "not_installed": why}
                continue
        if arguments.only_install:
            continue
        reports[name] = asyncio.run(play(client, folder))
        print(f"{name}: {json.dumps(reports[name], ensure_ascii=False)}", flush=True)
    if arguments.only_install:
        sys.exit(1 if reports else 0)
    if set(reports) == set(CLIENTS):
        arguments.json.write_text(json.dumps(reports, indent=2, ensure_ascii=False) + "\n")
    well = [bool(report["finished"] and report["each_once"]) for report in reports.values()]
    print(f"{sum(well)} of {len(well)} finished, each in one tree with every sampled token in it once")
    sys.exit(0 if all(well) else 1)


if __name__ == "__main__":
    main()
