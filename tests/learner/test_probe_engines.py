"""What the probe allows and says, by what samples."""

import pytest
import torch

from trieline.learner.probe import about_engine, agreement_with
from trieline.wire.messages import ServerStatus


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_engines_of_others_may_round_otherwise(dtype: torch.dtype) -> None:
    own, vllm = agreement_with("own", dtype), agreement_with("vllm", dtype)
    assert own.mean < vllm.mean
    assert own.maximum < vllm.maximum
    # Unknown precisions are compared as the coarser one.
    assert agreement_with("vllm", torch.float16) == agreement_with("vllm", torch.bfloat16)


def test_it_says_whether_the_loss_corrects() -> None:
    status = ServerStatus(
        request_id=1,
        policy_version=0,
        running=0,
        waiting=0,
        vocab_size=10,
        max_context=10,
        tokens_generated=0,
        dtype="bfloat16",
        engine="vllm",
        entropies="estimated",
    )
    assert "loss 'tis' weighs by the recomputed ratio. Its entropies are estimated" in about_engine(
        status, "tis"
    )
    assert "loss 'pg' does not weigh by the ratio: tis, icepop and vtrace_pg do" in about_engine(status, "pg")
