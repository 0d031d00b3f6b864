"""Grammars of requests, and which tokens each leaves at every place.

A stop id is allowed exactly where the grammar is fulfilled, so that a completion ends with one of them or is
cut off.
"""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from trieline.common.arrays import Bool
from trieline.learner.policy_server.batching.grammar_compiler import compiled, load_tokenizer, short
from trieline.learner.policy_server.batching.grammar_trial import GrammarTrials
from trieline.learner.policy_server.errors import InvalidRequestError
from trieline.wire.messages import Sampling

KEPT = 256
"""Compiled grammars: those of the requests that run, and of the next ones of the same tasks."""


class GrammarState:
    """The grammar of one completion, as far as it has come."""

    def __init__(self, matcher: Any, stop_ids: tuple[int, ...], vocab_size: int) -> None:
        self._matcher = matcher
        self._stop_ids = [token for token in stop_ids if token < vocab_size]
        self._vocab_size = vocab_size

    def allowed(self) -> Bool:
        """[V] the tokens that may come next, at least one.

        Raises:
            InvalidRequestError: there is none, or to find them takes more than llguidance's limits.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._expect_sound()
        flags = np.unpackbits(bits, bitorder="little").view(np.bool_)
        allowed = np.zeros(self._vocab_size, np.bool_)
        # The mask has a token more, which stands for the end, and is filled up to whole words.
        known = min(len(flags), self._vocab_size)
        allowed[:known] = flags[:known]
        allowed[self._stop_ids] = self._matcher.is_accepting()
        if not allowed.any():
            msg = "expected a grammar that this model's tokens can spell, got one where none can come next"
            raise InvalidRequestError(msg)
        return allowed

    def take(self, token: int) -> None:
        """Go on after a token that was allowed."""
        if token not in self._stop_ids:
            self._matcher.consume_token(token)
            self._expect_sound()

    def _expect_sound(self) -> None:
        if self._matcher.is_error():
            msg = f"expected a grammar within llguidance's limits, got: {short(self._matcher.get_error())}"
            raise InvalidRequestError(msg)


class Grammars:
    """Those that were asked for last, compiled. What is needed for that comes with the first one."""

    def __init__(self, tokenizer: Path, vocab_size: int) -> None:
        """`tokenizer`: the model's `tokenizer.json`."""
        self._path = tokenizer
        self._vocab_size = vocab_size
        self._trials = GrammarTrials(tokenizer)
        self._tokenizer: Any = None
        # A matcher at its start, or why there is none.
        self._known: OrderedDict[tuple[str, str], Any | str] = OrderedDict()

    def start(self, sampling: Sampling) -> GrammarState:
        """The grammar of a request at its start.

        Raises:
            InvalidRequestError: there is none to be had; the message says why.
        """
        if sampling.json_schema and sampling.lark:
            msg = "expected a json_schema or a lark grammar, got both"
            raise InvalidRequestError(msg)
        if not sampling.stop_ids:
            msg = "expected stop_ids, one of which ends a completion that fulfils its grammar, got none"
            raise InvalidRequestError(msg)
        key = (sampling.json_schema, sampling.lark)
        if key not in self._known:
            self._known[key] = self._compiled(*key)
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        found = self._known[key]
        if isinstance(found, str):
            raise InvalidRequestError(found)
        return GrammarState(found.deep_copy(), sampling.stop_ids, self._vocab_size)

    def close(self) -> None:
        """Idempotent."""
        self._trials.close()

    def _compiled(self, json_schema: str, lark: str) -> Any | str:
        try:
            self._trials.start()
            if self._tokenizer is None:
                self._tokenizer = load_tokenizer(self._path)
            self._trials.expect_harmless(json_schema=json_schema, lark=lark)
            return compiled(self._tokenizer, json_schema=json_schema, lark=lark)
        except InvalidRequestError as error:
            return str(error)
