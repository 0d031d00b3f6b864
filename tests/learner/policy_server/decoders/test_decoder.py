from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
)

from tests.learner.policy_server.cpu.tiny import (
    SHAPE,
    expect_plain,
    generate,
    random_prompt,
    request,
    save_model,
)
from trieline.learner.errors import ModelRefusedError
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.policy_server.cpu.cpu_engine import CpuEngine
from trieline.learner.policy_server.decoders.choose_decoder import load_decoder
from trieline.learner.policy_server.decoders.hf_decoder import HFDecoder
from trieline.learner.policy_server.decoders.llama_decoder import LlamaDecoder
from trieline.learner.policy_server.decoders.packed_linear import PackedLinear, is_packable


def served(folder: Path, *, fused: bool = True) -> list[np.ndarray]:
    engine = CpuEngine(load_decoder(folder, torch.float32, fused=fused), PolicyServerConfig())
    requests = [request(i, random_prompt(i, 10 + i), max_tokens=8, seed=i) for i in range(5)]
    return [one.logprobs for one in generate(engine, *requests)]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_the_lean_decoder_agrees_with_the_generic_one(family: str, tmp_path: Path) -> None:
    folder = save_model(tmp_path, family)
    assert isinstance(load_decoder(folder, torch.float32), LlamaDecoder)
    assert isinstance(load_decoder(folder, torch.float32, fused=False), HFDecoder)
    for lean, generic in zip(served(folder), served(folder, fused=False), strict=True):
        np.testing.assert_allclose(lean, generic, atol=1e-4)


def test_another_family_is_served_by_its_own_layers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    GPTNeoXForCausalLM(config).save_pretrained(tmp_path)
    decoder = load_decoder(tmp_path, torch.float32)
    assert isinstance(decoder, HFDecoder)
    assert (decoder.kv_shape.heads, decoder.kv_shape.key_width) == (4, 8)
    prompt = random_prompt(0, 20)
    engine = CpuEngine(decoder, PolicyServerConfig())
    for completion in generate(engine, *(request(i, prompt, max_tokens=6, seed=i) for i in range(3))):
        expect_plain(tmp_path, prompt, completion)


def test_a_model_that_attends_otherwise_is_refused_by_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    capped = tmp_path / "capped"
    Gemma2ForCausalLM(Gemma2Config(**SHAPE)).save_pretrained(capped)
    with pytest.raises(ModelRefusedError, match=r"Gemma2Attention asks for softcap=50\.0"):
        load_decoder(capped, torch.float32)
    hybrid = tmp_path / "hybrid"
    config = Lfm2Config(**SHAPE, layer_types=["full_attention", "conv", "conv"])
    Lfm2ForCausalLM(config).save_pretrained(hybrid)
    with pytest.raises(ModelRefusedError, match="layers of kind conv"):
        load_decoder(hybrid, torch.float32)
    own_way = tmp_path / "own_way"
    BloomForCausalLM(BloomConfig(vocab_size=300, hidden_size=32, n_layer=2, n_head=4)).save_pretrained(
        own_way
    )
    with pytest.raises(ModelRefusedError, match="expected each of its 2 layers to attend"):
        load_decoder(own_way, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 3, 64])
def test_a_packed_product_is_the_plain_one(dtype: torch.dtype, rows: int) -> None:
    torch.manual_seed(0)
    weight, bias, x = (torch.randn(*shape).to(dtype) for shape in ((700, 100), (700,), (rows, 100)))
    plain = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
    assert is_packable(weight)
    tolerance = 1e-4 if dtype == torch.float32 else 0.3
    torch.testing.assert_close(PackedLinear(weight, bias)(x).double(), plain, atol=tolerance, rtol=0)
    assert not is_packable(weight.double())
