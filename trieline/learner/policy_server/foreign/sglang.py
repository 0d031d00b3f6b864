"""SGLang: `/generate` with token ids, weights from disk, requests asked again under new weights.

Written from the source and documentation of 0.5.23, which needs a GPU, and tested against replies as those
describe them, not against SGLang itself.

Its log-probabilities are those of the temperature, before top-k and top-p cut. Where these cut, it is asked
for the tokens that they left with the log-probabilities among those (`--sampling-mask-max-tokens` allows it),
and everything is taken from there.
"""

from pathlib import Path
from typing import Annotated, Any

import msgspec

from trieline.learner.policy_server.errors import EngineError
from trieline.learner.policy_server.foreign.dialect import Abilities, Labels, Served, cuts
from trieline.learner.policy_server.foreign.http_link import HttpLink
from trieline.learner.policy_server.foreign.reply_columns import (
    SaidTokens,
    VersionSpan,
    VersionSpans,
    completion_of,
    versions_of,
)
from trieline.wire.messages import Completion, GenerateRequest, Sampling

SEED_MASK = (1 << 31) - 1
INFO_S = 60.0
NOTHING = -9999.0
"""Nats, of what can't be sampled."""

Pair = Annotated[list[Any], msgspec.Meta(min_length=2, max_length=3)]
"""Log-probability, token id, and perhaps text."""


class _FinishReason(msgspec.Struct):
    type: str
    matched: int | str | list[int] | None = None
    message: str = ""


class _Meta(msgspec.Struct):
    finish_reason: _FinishReason | None = None
    weight_version: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    weight_versions: VersionSpans | None = None
    output_token_logprobs: list[tuple[float, int, str | None]] = []
    output_top_logprobs: list[list[tuple[float, int, str | None]] | None] = []
    output_token_sampling_mask: list[list[int]] = []
    output_token_sampling_logprobs: list[list[float]] = []


class _Reply(msgspec.Struct):
    meta_info: _Meta


class _Updated(msgspec.Struct):
    success: bool
    message: str = ""


class _Info(msgspec.Struct):
    dtype: str = "auto"
    context_length: int | None = None
    max_req_input_len: int | None = None
    sampling_mask_max_tokens: int | None = None
    speculative_algorithm: str | None = None


class SglangDialect:
    """See `Dialect`."""

    kind = "SGLang"
    keeps_requests = False
    has_unix_sockets = False

    def __init__(self, served: Served) -> None:
        self._served = served

    def command(self, *, port: int, socket: str) -> list[str]:
        config = self._served.config
        return [
            *(config.engine.command or ["python", "-m", "sglang.launch_server"]),
            *("--model-path", str(self._served.folder), "--host", "127.0.0.1", "--port", str(port)),
            *("--dtype", self._served.dtype, "--max-running-requests", str(config.max_rows)),
            *config.engine.arguments,
        ]

    def environment(self) -> dict[str, str]:
        return {"SGLANG_RETURN_ORIGINAL_LOGPROB": "0"}

    async def look(self, link: HttpLink) -> Abilities:
        info = await link.get("/server_info", _Info, timeout_s=INFO_S)
        if info.dtype not in ("auto", self._served.dtype):
            msg = f"{link.name}: expected --dtype {self._served.dtype}, as model.dtype says, got {info.dtype}"
            raise EngineError(msg)
        if info.speculative_algorithm is not None:
            msg = f"{link.name}: expected no speculative decoding, which nothing here has been tried with"
            raise EngineError(msg)
        return Abilities(
            max_context=info.context_length or info.max_req_input_len or self._served.config.max_context,
            max_logprobs=self._served.vocab_size,
            max_mask=info.sampling_mask_max_tokens or 0,
        )

    def refusal(self, sampling: Sampling, abilities: Abilities) -> str:
        if sampling.json_schema or sampling.lark:
            return "expected no grammar with SGLang, of which nothing here has been tried, got one"
        if cuts(sampling) and abilities.max_mask == 0:
            return (
                "expected top_k = 0 and top_p = 1 with an SGLang that was started without "
                f"--sampling-mask-max-tokens, got {sampling.top_k} and {sampling.top_p:g}: it would not tell "
                "the log-probabilities of what was really sampled from"
            )
        return ""

    async def generate(
        self, link: HttpLink, request: GenerateRequest, labels: Labels, abilities: Abilities
    ) -> Completion:
        del abilities
        meta = (await link.post("/generate", self._body(request), _Reply)).meta_info
        end = meta.finish_reason or _FinishReason(type="no reason")
        if end.type not in ("stop", "length"):
            msg = f"{link.name}: expected an end by stop or length, got {end.type[:80]!r} {end.message[:200]}"
            raise EngineError(msg)
        token_ids = [token_id for _, token_id, _ in meta.output_token_logprobs]
        spans = meta.weight_versions
        if spans is None:
            spans = [VersionSpan(version=meta.weight_version or "", start=0, end=len(token_ids))]
        said, width = _cut_tokens(link.name, meta) if cuts(request.sampling) else _plain_tokens(meta)
        return completion_of(
            request,
            SaidTokens(
                token_ids=token_ids,
                logprobs=said[0],
                tops=said[1],
                policy_versions=versions_of(link.name, spans, len(token_ids), labels),
            ),
            name=link.name,
            vocab_size=self._served.vocab_size,
            width=width,
            stop=end.matched if isinstance(end.matched, str) else "",
            stopped=end.type == "stop",
        )

    def _body(self, request: GenerateRequest) -> dict[str, Any]:
        sampling = request.sampling
        settings: dict[str, Any] = {
            "max_new_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "stop_token_ids": list(sampling.stop_ids),
            "ignore_eos": True,
            "no_stop_trim": True,
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            # Counts where it was started with --enable-deterministic-inference.
            "sampling_seed": sampling.seed & SEED_MASK,
        }
        if sampling.stop:
            settings["stop"] = list(sampling.stop)
        body: dict[str, Any] = {
            "input_ids": request.prompt.tolist(),
            "sampling_params": settings,
            "return_logprob": True,
            "top_logprobs_num": self._served.config.engine.top_logprobs,
        }
        if cuts(sampling):
            body |= {"return_sampling_mask": True, "sampling_logprobs_mode": "support"}
        return body

    async def load(self, link: HttpLink, folder: Path, label: str) -> None:
        asked = {"model_path": str(folder), "abort_all_requests": True, "weight_version": label}
        updated = await link.order_for("/update_weights_from_disk", _Updated, asked)
        if not updated.success:
            msg = f"{link.name} did not take the weights in {folder}: {updated.message[:300]}"
            raise EngineError(msg)
        # As the update does by itself in newer versions.
        await link.order("/flush_cache")


Tops = list[list[tuple[int, float]]]


def _plain_tokens(meta: _Meta) -> tuple[tuple[list[float], Tops], int]:
    """Log-probabilities and the largest ones, and how many of these are surely among them."""
    logprobs = [logprob for logprob, _, _ in meta.output_token_logprobs]
    told = meta.output_top_logprobs or [None] * len(logprobs)
    tops = [[(token_id, logprob) for logprob, token_id, _ in top or ()] for top in told]
    return (logprobs, tops), min(map(len, tops), default=0)


def _cut_tokens(name: str, meta: _Meta) -> tuple[tuple[list[float], Tops], int]:
    """As `_plain_tokens`, of what `top_k` and `top_p` left. Raises EngineError if it is not told."""
    logprobs: list[float] = []
    tops: Tops = []
    rows = zip(meta.output_token_sampling_mask, meta.output_token_sampling_logprobs, strict=False)
    for (_, token_id, _), (left, values) in zip(meta.output_token_logprobs, rows, strict=False):
        if token_id not in left or len(left) != len(values):
            break
        logprobs.append(values[left.index(token_id)])
        tops.append(list(zip(left, values, strict=True)))
    if len(logprobs) != len(meta.output_token_logprobs):
        msg = f"{name}: expected what top_k and top_p left for each of its tokens, got it for {len(logprobs)}"
        raise EngineError(msg)
    # Beyond what was left, nothing was possible: with that said, entropies are exact.
    width = max(map(len, tops), default=0) + 1
    return (logprobs, [top + [(0, NOTHING)] * (width - len(top)) for top in tops]), width
