"""What a gateway is told: where it listens, how many sessions at once, how to sample, when to give up."""

from typing import Annotated, Literal

import msgspec

from trieline.common.numbers import Count, Positive, Seconds


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The HTTP end of a gateway."""

    host: str = "127.0.0.1"
    """Anybody who reaches another address than loopback can ask the policy, so it needs `admin_key`."""
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 7710
    """0: a free one."""
    admin_key: str = ""
    """Whoever opens and closes sessions has to send it (`Authorization: Bearer`). Empty: anybody may. Online,
    the keys that open sessions are it, or begin with it and a slash."""
    online: bool = False
    """A request with a key that opens no session begins one, which ends `idle_timeout_s` after its last
    request unless somebody ends it before."""
    sessions: Positive = 4096
    """Open ones at most; more are told to come again."""
    unseated_sessions: Positive = 1024
    """Of a gateway that works for a learner: ended ones that wait for a task of the learner's, at most. The
    log says which is forgotten, the one that ended first."""
    requests: Positive = 1024
    """That wait for a reply at once; more are told to come again (429)."""
    max_body_bytes: Positive = 64 * 1024 * 1024
    """Of one request."""
    model_name: str = "trieline"
    """As `/v1/models` lists it. Requests may name any."""
    max_tokens: Positive = 4096
    """New tokens of one reply at most, whatever a request asks for."""
    max_context: Count = 0
    """Tokens of a prompt and its reply together. 0: as many as the policy server takes."""
    max_exchanges: Positive = 2000
    """Of one session."""
    sampling: Literal["asked", "run"] = "asked"
    """`asked`: temperature, top_p and top_k of each request. `run`: those of `actor`, whatever a request
    says, since the ratios of training are those of a policy that was sampled so."""
    retry_after_s: Seconds = 2.0
    """What those are told that come when there is no room."""
    keep_alive_s: Seconds = 10.0
    """A stream is sent a sign of life this often while the policy writes."""
    idle_timeout_s: Seconds = 3600.0
    """A session without requests for so long ends: broken with the cause timeout, or as it is if online."""
    reward_timeout_s: Seconds = 86_400.0
    """A session that ended without a reward waits so long for one."""
