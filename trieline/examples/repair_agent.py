"""A small coding agent with the plain OpenAI SDK. It knows nothing of training: only its base URL is set.

It reads a task from standard input, asks the model for a fix, hands the fix to the program that checks it
(`CHECK_URL`), tells the model what came of it, and tries again.
"""

import json
import os
import sys
import urllib.request
from typing import Any

from openai import OpenAI

ATTEMPTS = 2


def check(fix: str) -> Any:
    """What the checker says of a fix."""
    request = urllib.request.Request(
        os.environ["CHECK_URL"],
        json.dumps({"action": fix}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def main() -> None:
    """One task."""
    client = OpenAI()
    chat: list[Any] = [{"role": "user", "content": sys.stdin.read()}]
    for _ in range(ATTEMPTS):
        completion = client.chat.completions.create(model="policy", messages=chat)
        reply = completion.choices[0].message.content or ""
        outcome = check(reply)
        if outcome["terminated"]:
            break
        chat.append({"role": "assistant", "content": reply})
        chat += [{"role": m["role"], "content": m["content"]} for m in outcome["messages"]]


if __name__ == "__main__":
    main()
