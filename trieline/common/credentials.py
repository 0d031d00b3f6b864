"""What is nobody else's business, taken out of what is logged, told or sent elsewhere."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

WITHHELD = "(not sent)"

_NAMES = r"(?:api_?keys?|key|secrets?|passw(?:or)?d|passphrase|token|authorization|credentials?|cookie)"
_SECRET = re.compile(rf"(?:^|[^a-z0-9]){_NAMES}$")
_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NAMED = rf"(?:[\w.-]*(?:[_.-]|(?-i:[a-z0-9](?=[A-Z]))))?{_NAMES}"
_USER = re.compile(r"(?<=://)[^/?#\s]+@")
_QUERY = re.compile(rf"([?&]{_NAMED}=)[^&#\s]+", re.IGNORECASE)
_VARIABLE = re.compile(rf"(?<![\w.-])({_NAMED}=)(?:'[^']*'|\"[^\"]*\"|[^&#\s]+)", re.IGNORECASE)
_HEADER = re.compile(r"\b((?:authorization|cookie|api-key|(?<=-)token): *)[^'\"\n]+", re.IGNORECASE)
_FLAG = re.compile(r"--?([\w.-]+)(=?)")
# What stands in them is what others ask for, under names of theirs.
_OF_OTHERS = ("environment", "env", "headers")


def without_credentials(text: str) -> str:
    """`text`, the addresses in it without users, passwords and keys: `http://ada:pw@host` is `http://***@host`."""
    if "://" not in text:
        return text
    return _QUERY.sub(r"\1***", _USER.sub("***@", text))


def without_secrets(value: Any) -> Any:
    """The same nested value; what stands under the name of a key, token or password is withheld.

    So are all values of variables and headers, and in text and arguments what is given to such a name.
    """
    if isinstance(value, Mapping):
        return {name: _without_secret(str(name), inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return shown_command(value)
    if isinstance(value, str):
        return _HEADER.sub(r"\1***", _VARIABLE.sub(r"\1***", without_credentials(value)))
    return value


def shown_command(arguments: Sequence[Any]) -> list[Any]:
    """Arguments of a command, those withheld that stand after, or with, the name of a key or the like.

    Up to the next option: `vllm serve` takes several keys after one `--api-key`.
    """
    shown: list[Any] = []
    withhold = False
    for argument in arguments:
        flag = _FLAG.match(argument) if isinstance(argument, str) else None
        is_secret = flag is not None and _is_secret(flag[1])
        if withhold and flag is None:
            shown.append(WITHHELD)
        elif flag is not None and is_secret and flag[2]:
            shown.append(f"{flag[0]}{WITHHELD}")
        else:
            shown.append(without_secrets(argument))
        if flag is not None:
            withhold = is_secret and not flag[2]
    return shown


def _without_secret(name: str, value: Any) -> Any:
    if value and _is_secret(name):
        return WITHHELD
    if name.lower() in _OF_OTHERS and isinstance(value, Mapping):
        return {inner: WITHHELD if text else text for inner, text in value.items()}
    return without_secrets(value)


def _is_secret(name: str) -> bool:
    return _SECRET.search(_CAPITAL.sub("_", name).lower()) is not None
