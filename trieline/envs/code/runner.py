"""Runs inside the sandbox: calls the agent's function on the inputs and prints what it returned.

It knows no expected value and says nothing of right or wrong: what it prints is compared outside. It is
passed to `python3 -c` as text, so it imports nothing of ours. The agent's code shares its process and can
break it, and can thereby only fail.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

NAME = "f"
MAX_ITEMS = 2000
"""Of one returned value, counted through all its levels."""
MAX_TEXT = 10_000


def encode(value: Any, budget: list[int] | None = None) -> Any:
    """A value as JSON that tells lists from tuples, sets and dicts. Raises ValueError if it is too large."""
    budget = budget if budget is not None else [MAX_ITEMS]
    budget[0] -= 1
    if budget[0] < 0:
        msg = "too many items"
        raise ValueError(msg)
    kind = type(value)
    if value is None or kind in (bool, float):
        return value
    if kind is int:
        if value.bit_length() > 4000:
            msg = "too large an integer"
            raise ValueError(msg)
        return value
    if kind is str:
        if len(value) > MAX_TEXT:
            msg = "too long a text"
            raise ValueError(msg)
        return value
    if kind in (list, tuple):
        return [kind.__name__, *[encode(item, budget) for item in value]]
    if kind in (set, frozenset):
        return ["set", *sorted((encode(item, budget) for item in value), key=repr)]
    if kind is dict:
        return ["dict", *[[encode(key, budget), encode(item, budget)] for key, item in value.items()]]
    return ["other", kind.__name__[:100]]


def find_function(namespace: dict[str, Any]) -> Callable[..., Any]:
    """The function of the asked name, else the last one defined."""
    named = namespace.get(NAME)
    if callable(named):
        return named  # type: ignore[no-any-return]
    functions = [value for value in namespace.values() if type(value) is type(find_function)]
    if not functions:
        raise NameError(NAME)
    return functions[-1]


def main() -> None:
    """Read `{"source", "calls"}`; print one line of JSON a call: `["value", ...]` or `["error", type]`."""
    request = json.loads(sys.stdin.buffer.read())
    results = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="surrogatepass")
    # What the agent's code prints is nobody's business.
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    try:
        namespace: dict[str, Any] = {"__name__": "answer"}
        exec(compile(request["source"], "answer", "exec", dont_inherit=True), namespace)
        function = find_function(namespace)
    except BaseException as error:  # noqa: BLE001  # whatever the agent's code raises
        results.write(json.dumps(["error", type(error).__name__[:100]]) + "\n")
        results.flush()
        return
    for arguments in request["calls"]:
        try:
            result = ["value", encode(function(*arguments))]
            line = json.dumps(result)
        except BaseException as error:  # noqa: BLE001  # as above
            line = json.dumps(["error", type(error).__name__[:100]])
        results.write(line + "\n")
        results.flush()


if __name__ == "__main__":
    main()
