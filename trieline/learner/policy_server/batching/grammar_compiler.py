"""Grammars compiled by llguidance, over a model's tokenizer.

The tokenizer gets one token more than the model has, which stands for the end: so a mask says apart which
tokens go on and whether the text may end here, whatever tokens a model ends its turns with.
"""

import json
from pathlib import Path
from typing import Any

import msgspec

from trieline.learner.policy_server.errors import InvalidRequestError

_END = "<|trieline_end_of_grammar|>"
# Of what an error says of itself; llguidance repeats the grammar in it.
_MOST_CHARACTERS = 300


def load_tokenizer(path: Path) -> Any:
    """The `tokenizer.json` of a model for `compiled`. Takes a second.

    Raises:
        InvalidRequestError: llguidance is not installed, or can't use this tokenizer.
    """
    try:
        from llguidance import LLTokenizer
    except ImportError as error:
        msg = f"expected no grammar, since llguidance is not installed on the policy server: {error}"
        raise InvalidRequestError(msg) from error
    from tokenizers import AddedToken, Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.add_special_tokens([AddedToken(_END, special=True, normalized=False)])
    end = int(tokenizer.token_to_id(_END) or 0)
    try:
        return LLTokenizer(tokenizer.to_str(), n_vocab=end + 1, eos_token=end)
    except ValueError as error:
        msg = f"expected no grammar, since llguidance can't read {path}: {error}"
        raise InvalidRequestError(msg) from error


def compiled(tokenizer: Any, *, json_schema: str, lark: str) -> Any:
    """An `LLMatcher` at the start of a text, of the one of the two that is not empty.

    Raises:
        InvalidRequestError: it is no grammar, or one beyond llguidance's limits.
    """
    from llguidance import LLMatcher, LLParserLimits

    if lark:
        grammar = LLMatcher.grammar_from_lark(lark)
    else:
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(_schema(json_schema)))
    limits = LLParserLimits(precompute_large_lexemes=False, verbose_errors=False)
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    if matcher.is_error():
        msg = f"expected a grammar, got one that llguidance refuses: {short(matcher.get_error())}"
        raise InvalidRequestError(msg)
    return matcher


def short(error: str) -> str:
    """What llguidance says, without what it shows of its state."""
    return error.partition("\n<")[0][:_MOST_CHARACTERS]


def _schema(text: str) -> Any:
    try:
        schema = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        msg = f"expected json_schema to be JSON, got text that is none: {error}"
        raise InvalidRequestError(msg) from error
    if not isinstance(schema, dict | bool):
        msg = f"expected json_schema to be an object, true or false, got {type(schema).__name__}"
        raise InvalidRequestError(msg)
    return schema
