"""Runs inside the sandbox: calls the agent's function on the inputs and prints what it returned.

It knows no expected value and says nothing of right or wrong: what it prints is compared outside. It is
passed to `python3 -c` as text, behind that of `values`, all that it needs of ours. The agent's code shares
its process and can break it, and can thereby only fail.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from trieline.envs.code.values import decode, encode

NAME = "f"


def find_function(namespace: dict[str, Any], name: str) -> Callable[..., Any]:
    """The function of the asked name, else the last one defined."""
    named = namespace.get(name)
    if callable(named):
        return named  # type: ignore[no-any-return]
    functions = [value for value in namespace.values() if type(value) is type(find_function)]
    if not functions:
        raise NameError(name)
    return functions[-1]


def main() -> None:
    """Read `{"name", "source", "calls"}`; print a line of JSON a call: `["value", ...]` or `["error", type]`.

    A call is its arguments in order and by name, encoded.
    """
    request = json.loads(sys.stdin.buffer.read())
    results = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="surrogatepass")
    # What the agent's code prints is nobody's business.
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    try:
        namespace: dict[str, Any] = {"__name__": "answer"}
        exec(compile(request["source"], "answer", "exec", dont_inherit=True), namespace)
        function = find_function(namespace, request["name"])
    except BaseException as error:  # noqa: BLE001  # whatever the agent's code raises
        results.write(json.dumps(["error", type(error).__name__[:100]]) + "\n")
        results.flush()
        return
    for call in request["calls"]:
        try:
            arguments, named = decode(call)
            result = ["value", encode(function(*arguments, **named))]
            line = json.dumps(result)
        except BaseException as error:  # noqa: BLE001  # as above
            line = json.dumps(["error", type(error).__name__[:100]])
        results.write(line + "\n")
        results.flush()


if __name__ == "__main__":
    main()
