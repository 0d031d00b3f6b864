"""Bytes of a stranger become an object, or an error that says why not."""

import json

import pytest

from trieline.actors.gateway.apis.json_body import body_of
from trieline.actors.gateway.errors import BadRequestError


def test_half_a_character_becomes_a_mark() -> None:
    assert body_of(rb'{"a\udc00": "\ud83d", "b": "\ud83c\udf32", "c": 1e3}') == {
        "a\ufffd": "\ufffd",
        "b": "🌲",
        "c": 1000.0,
    }


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "expected JSON, got what is none"),
        (b"[1]", r"expected a JSON object, got \[1\] \(list\)"),
        (b'{"a": NaN}', "NaN is no number of JSON"),
        (b'{"a": 1e999}', "expected JSON"),
        (b'{"a": "\xff"}', "can't decode byte 0xff"),
        (b'{"a": ' + b"[" * 100_000, "values are nested too deeply"),
        (b'{"a": 1', "expected JSON"),
    ],
)
def test_what_is_no_object_is_refused(data: bytes, complaint: str) -> None:
    with pytest.raises(BadRequestError, match=complaint):
        body_of(data)


@pytest.mark.parametrize("value", [b"[]", b"0", rb'"\""'])
def test_a_body_of_millions_of_values_is_refused_before_it_is_read(value: bytes) -> None:
    with pytest.raises(BadRequestError, match="the body: expected at most 1000000 values in it, got more"):
        body_of(b'{"messages": [' + b",".join([value] * 1_100_000) + b"]}")


def test_a_long_text_may_be_of_any_characters() -> None:
    text = '[{"a\\": "\\"b"},]' * 300_000
    assert body_of(json.dumps({"messages": [text]}).encode()) == {"messages": [text]}
