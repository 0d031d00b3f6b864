"""An agent with nothing but the standard library. Its argument says how it behaves."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def ask(chat: list[dict[str, str]]) -> str:
    url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
    found: str = post(url, {"model": "m", "messages": chat})["choices"][0]["message"]["content"]
    return found


def main() -> None:
    manner = sys.argv[1]
    chat = [{"role": "user", "content": sys.stdin.read()}]
    if manner == "silent":
        return
    reply = ask(chat)
    if manner == "stepping":
        outcome: dict[str, Any] = {"terminated": False}
        while not outcome["terminated"]:
            outcome = post(os.environ["TRIELINE_STEP_URL"], {"action": reply})
            chat += [{"role": "assistant", "content": reply}, *outcome["messages"]]
            reply = reply if outcome["terminated"] else ask(chat)
    elif manner == "dying":
        sys.exit("out of ideas")
    elif manner == "cheating":
        gateway, session = os.environ["OPENAI_BASE_URL"].split("/s/")[0], os.environ["TRIELINE_EPISODE"]
        for path in (f"sessions/{session}/rewards", f"sessions/{session}/close", "sessions"):
            try:
                post(f"{gateway}/{path}", {"reward": 9.0})
            except urllib.error.HTTPError as error:
                sys.stdout.write(f"{path.split('/')[-1]} {error.code} ")
    elif manner == "leaving":
        # A copy of itself that belongs to nobody: no child, no group, no program of its own.
        told, tell = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                Path(os.environ["CHILD_FILE"]).write_text(str(os.getpid()))
                os.write(tell, b"there")
                time.sleep(600)
            os._exit(0)
        os.read(told, 5)
        sys.stdout.write(reply)
    elif manner == "hanging":
        # A child in a session of its own, which knows nothing of its parent's end.
        child = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
        )
        Path(os.environ["CHILD_FILE"]).write_text(str(child.pid))
        time.sleep(600)
    else:
        assert Path.cwd().name == "work"
        sys.stdout.write(f"  {reply}\n")


if __name__ == "__main__":
    main()
