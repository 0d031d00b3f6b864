"""JSON of a stranger, read within bounds: bytes to an object, an object to records, values of any shape.

Whatever comes gives a value or a `BadRequestError` that names the field, never another exception.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, NoReturn, TypeVar, cast

import msgspec

from trieline.actors.gateway.errors import BadRequestError
from trieline.common.text import shown_value

MOST_MESSAGES = 16_384
MOST_PARTS = 4_096
"""Of one message."""
MOST_CALLS = 128
"""Of one reply."""
MOST_TOOLS = 1_024
MOST_STOPS = 64
MOST_NESTED = 64
"""Values in one another. Deeper ones can be read where they can't be written any more."""
MOST_VALUES = 100_000
"""In a tool's schema or a call's arguments."""

MOST_BODY_VALUES = 1_000_000
"""In a whole body. 64 MiB could hold thirty times as many, which take minutes and gigabytes to read."""
SMALL = 2**20
"""Bytes of a body in which values need not be counted."""

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
"""Of a tool or a speaker."""
Id = Annotated[str, msgspec.Meta(max_length=1_024)]
"""Of a call: clients join several into one."""
Stop = Annotated[str, msgspec.Meta(min_length=1, max_length=1_024)]
Table = dict[str, Any]

_Record = TypeVar("_Record")


def body_of(data: bytes) -> dict[str, Any]:
    """The JSON object that a body is. Half a character, which JavaScript can send, becomes U+FFFD."""
    if len(data) > SMALL:
        _expect_few_values(data)
    try:
        body = _decoded(data)
    except (ValueError, msgspec.DecodeError, RecursionError) as error:
        reason = "values are nested too deeply" if isinstance(error, RecursionError) else str(error)
        message = f"the body: expected JSON, got what is none: {reason}"
        raise BadRequestError(message) from None
    if not isinstance(body, dict):
        message = f"the body: expected a JSON object, got {shown_value(body)}"
        raise BadRequestError(message)
    return body


def _expect_few_values(data: bytes) -> None:
    """By what parts values from one another, outside of strings. Takes 0.2 s for 64 MiB."""
    bare = data.replace(rb"\\", b"").replace(rb"\"", b"")
    if bare.count(b'"') <= 2 * MOST_BODY_VALUES:
        outside = b"".join(bare.split(b'"')[::2])
        if sum(outside.count(mark) for mark in (b",", b"[", b"{")) <= MOST_BODY_VALUES:
            return
    raise wrong(at="the body", why=f"expected at most {MOST_BODY_VALUES} values in it, got more")


def _decoded(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except UnicodeDecodeError:
        raise
    except msgspec.DecodeError:
        pass
    # It refuses lone surrogates, and says less of what is wrong.
    value = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    text = json.dumps(value, ensure_ascii=False)
    return msgspec.json.decode(
        text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()
    )


def _no_constant(name: str) -> NoReturn:
    message = f"{name} is no number of JSON"
    raise ValueError(message)


def record_of(body: Mapping[str, Any], kind: type[_Record]) -> _Record:
    """`body` as a record; fields that the record doesn't have are passed over."""
    return cast("_Record", converted(dict(body), kind, ""))


def converted(value: Any, kind: Any, at: str) -> Any:
    """The field `at` as msgspec reads that type; "": the whole body."""
    try:
        return msgspec.convert(value, kind)
    except UnicodeEncodeError:
        raise wrong(at=at or "the body", why="expected whole characters, got half of one") from None
    except (msgspec.ValidationError, RecursionError) as error:
        message, _, path = str(error).partition(" - at `")
        path = at + path.replace("` in `", " of ").rstrip("`").replace("$", "")
        raise wrong(at=path.removeprefix(".") or "the body", why=_lowered(message)) from None


def _lowered(sentence: str) -> str:
    """`sentence` as it stands after a colon."""
    return sentence[:1].lower() + sentence[1:]


def wrong(*, at: str, why: str) -> BadRequestError:
    """The error of the field `at`."""
    return BadRequestError(f"{at}: {why}", param=at)


def expected(got: object, what: str, *, at: str) -> BadRequestError:
    """The error of the field `at`, which is not what it should be."""
    return wrong(at=at, why=f"expected {what}, got {shown_value(got)}")


def at_most(most: int, found: int, param: str, what: str) -> None:
    """Raise unless there are at most that many."""
    if found > most:
        raise wrong(at=param, why=f"expected at most {most} {what}, got {found}")


def within_bounds(value: Any, param: str) -> Any:
    """`value`, which is of any shape, if it is neither too deep nor too large to be written again."""
    level, values = [value], 0
    for _ in range(MOST_NESTED):
        inside: list[Any] = []
        for outer in level:
            inside += outer.values() if type(outer) is dict else outer if type(outer) is list else ()
        values += len(inside)
        if values > MOST_VALUES:
            raise wrong(at=param, why=f"expected at most {MOST_VALUES} values in it, got more")
        level = [inner for inner in inside if type(inner) in (dict, list)]
        if not level:
            return value
    raise wrong(at=param, why=f"expected at most {MOST_NESTED} values in one another, got more")


def arguments_of(value: str | Table | None, param: str) -> Table:
    """A call's arguments, which most APIs send as JSON text; "" is none."""
    found: Any = value
    if isinstance(value, str):
        try:
            found = _decoded(value.encode("utf-8", "replace")) if value.strip() else {}
        except (ValueError, msgspec.DecodeError, RecursionError):
            raise expected(value, "a JSON object as text", at=param) from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise expected(found, "a JSON object", at=param)
    return dict(within_bounds(found, param))


def json_text(arguments: Table) -> str:
    """A call's arguments as JSON text, in the order in which they stand."""
    return msgspec.json.encode(arguments).decode()
