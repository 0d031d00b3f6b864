"""Forced calls: what the grammars take and what not, and that what is written under them is read back."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from tests.learner.policy_server.cpu.tiny import generate
from trieline.actors.errors import ToolGrammarError
from trieline.actors.tool_formats import FORMATS, ToolFormat
from trieline.actors.tool_grammars import forced_call, json_reply
from trieline.common.message import Tool
from trieline.learner.model_folder.tiny_model import save_tiny_model
from trieline.learner.policy_server.batching.grammar_compiler import compiled, load_tokenizer
from trieline.learner.policy_server.batching.grammars import Grammars
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.policy_server.cpu.cpu_engine import CpuEngine
from trieline.learner.policy_server.decoders.choose_decoder import load_decoder
from trieline.wire.messages import GenerateRequest, Sampling

pytest.importorskip("llguidance")

END = 258
ODD_NAME = 'wö"r\\d\n'


def tool(name: str, parameters: dict[str, Any] | None = None) -> Tool:
    function: dict[str, Any] = {"name": name, "description": "does it"}
    return {"type": "function", "function": function | ({"parameters": parameters} if parameters else {})}


TOOLS = [
    tool(
        "look_up",
        {
            "type": "object",
            "properties": {"word": {"type": "string", "maxLength": 12}, "page": {"enum": [1, 2, 3]}},
            "required": ["word"],
            "additionalProperties": False,
        },
    ),
    tool("stop_now"),
    tool(
        ODD_NAME, {"properties": {"to": {"$ref": "#/$defs/place"}}, "$defs": {"place": {"enum": ["x", "y"]}}}
    ),
]
CALL = '{"name": "look_up", "arguments": {"word": "tree", "page": 2}}'
LLAMA_CALL = CALL.replace("arguments", "parameters")
ODD_CALL = json.dumps({"name": ODD_NAME, "arguments": {"to": "y"}}, ensure_ascii=False)


def hermes(*calls: str) -> str:
    return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    save_tiny_model(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return load_tokenizer(folder / "tokenizer.json")


def takes(tokenizer: Any, grammar: str, text: str | list[int]) -> bool:
    matcher = compiled(tokenizer, json_schema="", lark=grammar)
    tokens = list(text.encode()) if isinstance(text, str) else text
    return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("hermes", hermes(CALL)),
        ("hermes", hermes('{"name": "stop_now", "arguments": {}}')),
        ("hermes", hermes('{"name": "stop_now", "arguments": {"any": [1, null]}}')),
        ("hermes", hermes(ODD_CALL)),
        ("hermes", hermes(CALL, ODD_CALL)),
        ("llama", LLAMA_CALL),
        ("llama", f"{LLAMA_CALL}; {LLAMA_CALL}"),
        ("mistral", f"[TOOL_CALLS][{CALL}]"),
        ("mistral", f"[TOOL_CALLS][{CALL}, {ODD_CALL}]"),
    ],
)
def test_real_calls_are_taken_and_read_back(form: str, text: str, tokenizer: Any) -> None:
    grammar = forced_call(form, TOOLS, most=2)
    assert takes(tokenizer, grammar, text)
    assert not takes(tokenizer, grammar, text[:-1])
    assert not takes(tokenizer, grammar, "I call: " + text)
    read = _format(form).read(text, TOOLS)
    assert read.calls
    assert not read.broken
    assert all(call.name in ("look_up", "stop_now", ODD_NAME) for call in read.calls)


@pytest.mark.parametrize(
    "text",
    [
        CALL,
        hermes(LLAMA_CALL),
        hermes(CALL.replace("look_up", "look_down")),
        hermes('{"name": "look_up", "arguments": {"page": 2}}'),
        hermes('{"name": "look_up", "arguments": {"word": "tree", "page": 4}}'),
        hermes('{"name": "look_up", "arguments": {"word": "tree", "size": 4}}'),
        hermes('{"name": "look_up", "arguments": {"word": 7}}'),
        hermes('{"name": "stop_now", "arguments": []}'),
        hermes(ODD_CALL.replace('"y"', '"z"')),
        hermes(CALL, CALL, CALL),
        hermes(CALL.replace(" ", "")),
    ],
)
def test_broken_calls_are_not_taken(text: str, tokenizer: Any) -> None:
    assert not takes(tokenizer, forced_call("hermes", TOOLS, most=2), text)


def test_a_named_call_is_of_that_function_once(tokenizer: Any) -> None:
    grammar = forced_call("hermes", TOOLS, "stop_now")
    assert takes(tokenizer, grammar, hermes('{"name": "stop_now", "arguments": {}}'))
    assert not takes(tokenizer, grammar, hermes(CALL))
    assert not takes(tokenizer, grammar, hermes(*['{"name": "stop_now", "arguments": {}}'] * 2))


def test_marks_that_are_tokens_are_written_as_these(folder: Path, tmp_path: Path) -> None:
    raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
    raw.add_special_tokens(["[TOOL_CALLS]", "[ARGS]"])
    raw.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    marks = {text: int(raw.token_to_id(text) or 0) for text in ("[TOOL_CALLS]", "[ARGS]")}
    opens, arguments = marks.values()
    newer = forced_call("mistral", TOOLS, marks=marks)
    written = [opens, *b"look_up", arguments, *b'{"word": "tree"}']
    assert takes(tokenizer, newer, written)
    assert not takes(tokenizer, newer, '[TOOL_CALLS]look_up[ARGS]{"word": "tree"}')
    older = forced_call("mistral", TOOLS, marks={"[TOOL_CALLS]": opens})
    assert takes(tokenizer, older, [opens, *f"[{CALL}]".encode()])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("tagged", TOOLS), r"hermes, llama, mistral\), got 'tagged'"),
        (("hermes", []), "expected tools, got none"),
        (("hermes", TOOLS, "look_down"), "a tool 'look_down', got none of that name"),
        (("hermes", [{"type": "function"}]), "functions have a name"),
        (("hermes", [tool("")]), "functions have a name"),
        (("hermes", [tool("x", [1])]), "as a JSON schema, got"),  # type: ignore[arg-type]
        (("hermes", [tool("x", {"minimum": float("nan")})]), "a schema of JSON, got none"),
        (("hermes", [tool("x", {"description": "x" * 300_000})]), "at most 262144 characters"),
    ],
)
def test_what_can_not_be_forced_is_refused(arguments: tuple[Any, ...], complaint: str) -> None:
    with pytest.raises(ToolGrammarError, match=complaint):
        forced_call(*arguments)


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[CpuEngine]:
    grammars = Grammars(folder / "tokenizer.json", 260)
    engine = CpuEngine(load_decoder(folder, torch.float32), PolicyServerConfig(), grammars=grammars)
    yield engine
    engine.close()


def replies(engine: CpuEngine, **grammar: str) -> list[str]:
    """What a model that has learned nothing says under it."""
    prompt = np.frombuffer(b"what now?", np.uint8).astype(np.int32)
    # At temperature 1 a model of random weights writes numbers of hundreds of digits.
    settings: dict[str, Any] = {"max_tokens": 400, "stop_ids": (END,), "temperature": 1.0} | grammar
    asked = [
        GenerateRequest(request_id=i, prompt=prompt, sampling=Sampling(seed=i, **settings)) for i in range(6)
    ]
    completions = generate(engine, *asked)
    assert {completion.finish_reason for completion in completions} == {"stop"}
    return [bytes(completion.token_ids[:-1].tolist()).decode() for completion in completions]


@pytest.mark.parametrize("form", ["hermes", "llama", "mistral"])
def test_what_is_written_under_a_grammar_is_a_call(form: str, engine: CpuEngine) -> None:
    for text in replies(engine, lark=forced_call(form, TOOLS, "look_up")):
        read = _format(form).read(text, TOOLS)
        assert [call.name for call in read.calls] == ["look_up"]
        assert (read.content, read.broken) == ("", ())
        assert isinstance(read.calls[0].arguments["word"], str)


def test_a_reply_of_json_follows_its_schema(engine: CpuEngine) -> None:
    schema = {
        "type": "object",
        "properties": {"yes": {"type": "boolean"}},
        "required": ["yes"],
        "additionalProperties": False,
    }
    assert {*replies(engine, json_schema=json_reply(schema))} <= {'{"yes": true}', '{"yes": false}'}
    assert json.loads(json_reply({}))["type"] == "object"
    with pytest.raises(ToolGrammarError, match="a schema of JSON"):
        json_reply({"enum": [object()]})


def _format(name: str) -> ToolFormat:
    return next(form for form in FORMATS if form.name == name)
