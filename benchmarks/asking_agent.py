"""An agent that asks once and prints what it hears. It needs nothing but the standard library."""

import json
import os
import sys
import urllib.request

TIMEOUT_S = 600.0


def main() -> None:
    """The task on standard input, the answer on standard output."""
    body = {"model": "policy", "messages": [{"role": "user", "content": sys.stdin.read()}]}
    request = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        sys.stdout.write(json.load(response)["choices"][0]["message"]["content"] or "")


if __name__ == "__main__":
    main()
