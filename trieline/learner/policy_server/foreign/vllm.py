"""vLLM: its token-in/token-out endpoint, weights changed while requests run, a version for every token.

Measured with 0.32. It is started with `--enable-scale-out` (the endpoint), `--logprobs-mode
processed_logprobs` (of the distribution really sampled from) and `VLLM_SERVER_DEV_MODE=1` (pause, weights,
caches). New weights: pause with requests kept, read them, have running requests computed anew from their
tokens, name the version, go on. Whatever fails between, it is told to go on.
"""

import contextlib
from pathlib import Path
from typing import Annotated, Any

import msgspec

from trieline.learner.policy_server.errors import EngineError
from trieline.learner.policy_server.foreign.dialect import Abilities, Labels, Served, cuts
from trieline.learner.policy_server.foreign.http_link import HttpLink
from trieline.learner.policy_server.foreign.reply_columns import (
    SaidTokens,
    VersionSpans,
    completion_of,
    versions_of,
)
from trieline.learner.policy_server.foreign.untied_head import ties_head
from trieline.wire.messages import Completion, GenerateRequest, Sampling

GENERATE = "/inference/v1/generate"
UNFINISHED = "weights that were not read to their end"
"""The name of what is served while new weights are read, and after that has failed."""
SEED_MASK = (1 << 63) - 1
# More than `top_k`: tokens of equal probability at its edge are all left.
TIES = 8
USUAL_LOGPROBS = 20
"""What vLLM gives at most if it is not told."""
INFO_S = 60.0
"""For its settings, which it gathers from the whole system."""
RESUME_S = 3.0
"""To go on after new weights failed. One that hangs is told again with the next ones."""


class _Candidate(msgspec.Struct):
    token_id: int
    logprob: float


class _Token(msgspec.Struct):
    token_id: int
    logprob: float
    top_logprobs: list[_Candidate] = []


class _Logprobs(msgspec.Struct):
    content: list[_Token] | None = None


class _Choice(msgspec.Struct):
    token_ids: list[int] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    logprobs: _Logprobs | None = None
    weight_versions: VersionSpans | None = None


class _Reply(msgspec.Struct):
    choices: Annotated[list[_Choice], msgspec.Meta(min_length=1, max_length=1)]


class _ModelSettings(msgspec.Struct):
    dtype: str
    logprobs_mode: str
    max_model_len: int
    max_logprobs: int


class _DeviceSettings(msgspec.Struct, frozen=True):
    device: str = ""


class _Settings(msgspec.Struct):
    model_config: _ModelSettings
    device_config: _DeviceSettings = _DeviceSettings()
    speculative_config: Any = None


class _Info(msgspec.Struct):
    vllm_config: _Settings


class _Reset(msgspec.Struct):
    success: bool


class VllmDialect:
    """See `Dialect`."""

    kind = "vLLM"
    keeps_requests = True
    has_unix_sockets = True

    def __init__(self, served: Served) -> None:
        self._served = served

    def command(self, *, port: int, socket: str) -> list[str]:
        config = self._served.config
        return [
            *(config.engine.command or ["vllm", "serve"]),
            str(self._served.folder),
            *(["--uds", socket] if socket else ["--host", "127.0.0.1", "--port", str(port)]),
            *("--generation-config", "vllm", "--dtype", self._served.dtype),
            *("--max-num-seqs", str(config.max_rows)),
            *("--enable-scale-out", "--logprobs-mode", "processed_logprobs"),
            *("--max-logprobs", str(max(USUAL_LOGPROBS, config.engine.top_logprobs + 1))),
            *config.engine.arguments,
        ]

    def environment(self) -> dict[str, str]:
        return {"VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1"}

    async def look(self, link: HttpLink) -> Abilities:
        try:
            info = await link.get("/server_info?config_format=json", _Info, timeout_s=INFO_S)
        except EngineError as error:
            msg = f"{error}; expected vLLM with VLLM_SERVER_DEV_MODE=1, which can be given weights"
            raise EngineError(msg) from error
        settings = info.vllm_config.model_config
        dtype = settings.dtype.removeprefix("torch.")
        if settings.logprobs_mode != "processed_logprobs":
            msg = (
                f"{link.name}: expected --logprobs-mode processed_logprobs, got {settings.logprobs_mode}: "
                "log-probabilities would not be those of the distribution that is sampled from"
            )
            raise EngineError(msg)
        if dtype != self._served.dtype:
            msg = f"{link.name}: expected --dtype {self._served.dtype}, as model.dtype says, got {dtype}"
            raise EngineError(msg)
        if info.vllm_config.speculative_config is not None:
            msg = f"{link.name}: expected no speculative decoding, which nothing here has been tried with"
            raise EngineError(msg)
        on_cpu = info.vllm_config.device_config.device == "cpu"
        if on_cpu and ties_head(self._served.folder):
            msg = (
                f"{link.name} runs on a CPU, where vLLM keeps the old head of a model that ties it to its "
                "embedding: expected no engine.urls for such a model, so that it is started here, untied"
            )
            raise EngineError(msg)
        return Abilities(
            max_context=settings.max_model_len,
            # 0.32 dies on a CPU of a request with a seed whose prompt is read in parts: it sets the offset of
            # the request's generator back, which generators of CPUs don't have.
            takes_seeds=not on_cpu,
            max_logprobs=self._served.vocab_size if settings.max_logprobs < 0 else settings.max_logprobs,
        )

    def refusal(self, sampling: Sampling, abilities: Abilities) -> str:
        if sampling.json_schema or sampling.lark:
            return "expected no grammar with vLLM, which does not tell what its grammar left, got one"
        most = abilities.max_logprobs - TIES
        if sampling.tell_masks and cuts(sampling) and not 1 <= sampling.top_k <= most:
            return (
                f"expected top_k of 1 to {most} (its --max-logprobs less {TIES}) where masks are asked for, "
                f"got {sampling.top_k}: vLLM tells no masks, so they are read off the largest probabilities"
            )
        return ""

    async def generate(
        self, link: HttpLink, request: GenerateRequest, labels: Labels, abilities: Abilities
    ) -> Completion:
        body = {
            "token_ids": request.prompt.tolist(),
            "sampling_params": self._sampling(request.sampling, abilities),
        }
        reply = await link.post(GENERATE, body, _Reply)
        choice = reply.choices[0]
        content = choice.logprobs.content if choice.logprobs else None
        if choice.finish_reason not in ("stop", "length") or choice.token_ids is None or content is None:
            msg = (
                f"{link.name}: expected token ids with log-probabilities that end by stop or length, got "
                f"an end by {str(choice.finish_reason)[:80]!r}"
            )
            raise EngineError(msg)
        if [token.token_id for token in content] != choice.token_ids:
            msg = f"{link.name}: expected log-probabilities of the tokens of the completion, got of others"
            raise EngineError(msg)
        said = SaidTokens(
            token_ids=choice.token_ids,
            logprobs=[token.logprob for token in content],
            tops=[[(one.token_id, one.logprob) for one in token.top_logprobs] for token in content],
            policy_versions=versions_of(
                link.name, choice.weight_versions or [], len(choice.token_ids), labels
            ),
        )
        return completion_of(
            request,
            said,
            name=link.name,
            vocab_size=self._served.vocab_size,
            # The sampled token takes the place of the last one if it is not among the largest.
            width=min(len(token.top_logprobs) for token in content) - 1 if content else 0,
            stop=choice.stop_reason if isinstance(choice.stop_reason, str) else "",
            stopped=choice.finish_reason == "stop",
        )

    def _sampling(self, sampling: Sampling, abilities: Abilities) -> dict[str, Any]:
        wanted = self._served.config.engine.top_logprobs
        wanted = wanted + 1 if wanted else 0
        if sampling.tell_masks and cuts(sampling):
            wanted = max(wanted, sampling.top_k + TIES)
        settings: dict[str, Any] = {
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": min(sampling.top_k, self._served.vocab_size),
            "logprobs": min(wanted, abilities.max_logprobs),
            "ignore_eos": True,
            "stop_token_ids": list(sampling.stop_ids),
            "detokenize": bool(sampling.stop),
        }
        if abilities.takes_seeds:
            settings["seed"] = sampling.seed & SEED_MASK
        if sampling.stop:
            settings |= {"stop": list(sampling.stop), "include_stop_str_in_output": True}
            settings |= {"skip_special_tokens": False, "spaces_between_special_tokens": False}
        return settings

    async def load(self, link: HttpLink, folder: Path, label: str) -> None:
        await link.order("/pause?mode=keep")
        try:
            await link.order("/update_weight_version", {"new_version": UNFINISHED})
            weights = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
            await link.order("/collective_rpc", weights)
            reset = await link.order_for("/reset_prefix_cache?reset_running_requests=true", _Reset)
            if not reset.success:
                msg = f"{link.name} did not empty its prefix cache: old keys and values would go on"
                raise EngineError(msg)
            await link.order("/update_weight_version", {"new_version": label})
        except BaseException:
            with contextlib.suppress(EngineError):
                await link.order("/resume", timeout_s=RESUME_S)
            raise
        await link.order("/resume")
