"""One request on its way: its tokens, what of them is in the cache, and what has been sampled."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from trieline.common.arrays import Bool, Int32
from trieline.learner.policy_server.batching.completion_masks import CompletionMasks
from trieline.learner.policy_server.batching.grammars import GrammarState
from trieline.learner.policy_server.batching.stop_text import StopText
from trieline.learner.policy_server.engine import Ticket
from trieline.learner.policy_server.errors import InvalidRequestError
from trieline.wire.messages import Completion, GenerateRequest


@dataclass(slots=True, eq=False)
class Sequence:
    """A request that waits or runs. `tokens[:length]` are known, `tokens[:filled]` have keys and values."""

    ticket: Ticket
    request: GenerateRequest
    tokens: npt.NDArray[np.int32]
    """[prompt + max_tokens] of which `length` are set."""
    length: int
    filled: int = 0
    row: int = -1
    """-1 while it waits."""
    first_version: int = -1
    """Version of the weights that its oldest keys and values come from; -1 while it waits."""
    stop_ids: frozenset[int] = frozenset()
    stop_text: StopText | None = None
    stopped_by: str = ""
    """The stop string that its text has come to."""
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    policy_versions: list[int] = field(default_factory=list)
    grammar: GrammarState | None = None
    masks: CompletionMasks = field(default_factory=CompletionMasks)
    refusal: str = ""
    """Why it turned out that it can't be answered."""

    @classmethod
    def start(
        cls,
        ticket: Ticket,
        request: GenerateRequest,
        stop_text: StopText | None,
        grammar: GrammarState | None,
    ) -> "Sequence":
        """A request that has just come in."""
        length = len(request.prompt)
        tokens = np.empty(length + request.sampling.max_tokens, np.int32)
        tokens[:length] = request.prompt
        stop_ids = frozenset(request.sampling.stop_ids)
        return cls(
            ticket=ticket,
            request=request,
            tokens=tokens,
            length=length,
            stop_ids=stop_ids,
            stop_text=stop_text,
            grammar=grammar,
        )

    @property
    def prompt_length(self) -> int:
        return len(self.request.prompt)

    @property
    def readable(self) -> npt.NDArray[np.int32]:
        """What may come from a cache before it runs.

        The last token is read in any case: the first sampled one depends on its logits.
        """
        return self.tokens[: self.length - 1]

    @property
    def need(self) -> int:
        """Tokens that it may come to."""
        return len(self.tokens)

    @property
    def pending(self) -> int:
        """Known tokens that have no keys and values yet; at least one while it runs."""
        return self.length - self.filled

    def allowed(self) -> Bool | None:
        """[V] the tokens that its grammar leaves now; None: all, or it has come to its `refusal`."""
        if self.grammar is None:
            return None
        try:
            return self.grammar.allowed()
        except InvalidRequestError as error:
            self.refusal = str(error)
            return None

    def append(self, token_id: int, logprob: float, entropy: float, version: int, mask: Int32 | None) -> bool:
        """Take a token that was sampled under `mask`; whether that is the end: finished, or refused."""
        try:
            self.masks.add(mask)
            if self.grammar is not None:
                self.grammar.take(token_id)
        except InvalidRequestError as error:
            self.refusal = str(error)
            return True
        self.tokens[self.length] = token_id
        self.length += 1
        self.logprobs.append(logprob)
        self.entropies.append(entropy)
        self.policy_versions.append(version)
        if self.stop_text is not None:
            self.stopped_by = self.stop_text.found(self.tokens[self.prompt_length : self.length])
        return self.length == self.need or token_id in self.stop_ids or self.stopped_by != ""

    def restart(self) -> None:
        """Forget what of it is in the cache. It has lost its row, and has sampled nothing yet."""
        assert self.length == self.prompt_length, "what has been sampled would be sampled anew"
        self.filled, self.first_version = 0, -1

    def completion(self) -> Completion:
        """The answer, once `append` said that it is finished."""
        token_ids = self.tokens[self.prompt_length : self.length]
        return Completion(
            request_id=self.request.request_id,
            token_ids=token_ids,
            logprobs=np.array(self.logprobs, np.float32),
            entropies=np.array(self.entropies, np.float32),
            policy_versions=np.array(self.policy_versions, np.int32),
            finish_reason="stop" if self.stopped_by or int(token_ids[-1]) in self.stop_ids else "length",
            stop=self.stopped_by,
            **self.masks.columns(),
        )
