"""The settings of a policy server. Importable without torch."""

from typing import Annotated, Literal

import msgspec

from trieline.common.numbers import Positive, Seconds
from trieline.learner.policy_server.errors import PolicyServerError


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An engine of others that samples in this server's place: vLLM or SGLang, spoken to over HTTP."""

    command: list[str] = []
    """Starts it; it is ended with the policy server. Empty: `vllm serve`, or `python -m
    sglang.launch_server`. What follows from the model and from these settings is added."""
    arguments: list[str] = []
    """More arguments for it, after all others."""
    environment: dict[str, str] = {}
    """More variables for it."""
    urls: tuple[str, ...] = ()
    """Where it runs already, such as `http://127.0.0.1:8000`: one for each address of `links.generate`, in
    their order. Empty: it is started here."""
    token_variable: str = ""
    """The variable of the environment that holds the bearer token for `urls`. "": they ask for none."""
    weights_folder: str = ""
    """Where new weights are copied to, by a path that the engine sees too. "": it reads them where the
    learner put them, on the same machine."""
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 20
    """Largest log-probabilities of each place that are asked for, to estimate the entropy from. 0: none, and
    entropies are unknown."""
    request_timeout_s: Seconds = 100.0
    """For its answer to one request; `max_rows` are asked at once. Then another server is asked: so it is
    less than `actor.generate_timeout_s`. If it answered nobody meanwhile, and does not give one token that it
    is asked for alone, it counts as hanging."""
    startup_timeout_s: Seconds = 600.0
    """For it to come up, and to come back."""
    max_reply_bytes: Positive = 64 * 1024 * 1024
    """Of one answer."""


class PolicyServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much one policy server takes on at once.

    A token's keys and values are 2 x layers x kv_heads x head_dim numbers: for SmolLM2-135M in bfloat16
    46 kB in a row (float32, as attention computes) and 23 kB in the prefix cache.
    """

    backend: Literal["own", "vllm", "sglang"] = "own"
    """What samples: the engine that comes with Trieline, or one of others (`engine`, docs/engines.md)."""
    engine: EngineConfig = EngineConfig()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What it samples on. `auto`: the GPU if there is one."""
    threads: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0
    """CPU threads of the matrix products, at most: fewer while other programs use the cores. 0: as many as
    this process may use cores."""
    max_rows: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 64
    """Requests that are decoded together."""
    max_waiting: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 4096
    """Requests that may wait for a row; more are refused as `overloaded`."""
    max_context: Positive = 8192
    """Tokens of prompt and completion together, also bounded by the model and by `kv_tokens`. A request for
    more is refused as `invalid`."""
    kv_tokens: Annotated[int, msgspec.Meta(ge=64)] = 65_536
    """Tokens of the rows' key-value cache: long requests lower the number of rows. On a CPU, shared prompts
    and what is kept for reuse have memory of their own beside; on a GPU they are part of it."""
    prefix_tokens: Annotated[int, msgspec.Meta(ge=0)] = 32_768
    """Tokens of finished sequences and shared prompts kept for reuse, least recently used out first."""
    prefill_tokens: Annotated[int, msgspec.Meta(ge=16, le=65_536)] = 1024
    """Prompt tokens computed in one step at most: what running requests wait for while prompts are read."""
    in_flight_updates: bool = True
    """New weights come between two tokens, so that several versions may sample one reply; each token says
    which did. False: one version samples a whole reply. New weights wait until the requests that run are
    finished, and no other begins meanwhile. An engine of others finishes all that it was given."""
    max_failures: Positive = 3
    """Steps that may fail, with no request answered in between, before the server exits with an error."""
    stop_grace_s: Seconds = 2.0
    """After SIGTERM or SIGINT, so long the refusals may take to leave."""

    def validate(self) -> None:
        """Raise PolicyServerError for settings without effect, or that contradict each other."""
        defaults, engine = PolicyServerConfig(), self.engine
        if self.backend == "own":
            self._expect_default("engine", defaults, "backend = 'own'")
            return
        for name in _OWN_SETTINGS:
            self._expect_default(name, defaults, f"backend = {self.backend!r}: that engine has its own")
        if engine.urls:
            for name in ("command", "arguments", "environment"):
                if getattr(engine, name):
                    msg = f"policy_server.engine.{name} has no effect with engine.urls: nothing is started"
                    raise PolicyServerError(msg)
        elif engine.token_variable:
            msg = "policy_server.engine.token_variable has no effect without engine.urls"
            raise PolicyServerError(msg)

    def _expect_default(self, name: str, defaults: "PolicyServerConfig", when: str) -> None:
        if (value := getattr(self, name)) != getattr(defaults, name):
            msg = f"policy_server.{name} = {value!r} has no effect with {when}; remove it"
            raise PolicyServerError(msg)


_OWN_SETTINGS = ("device", "kv_tokens", "prefix_tokens", "prefill_tokens")
