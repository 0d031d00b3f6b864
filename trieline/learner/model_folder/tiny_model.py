"""The built-in tiny model: a byte-level Qwen3 of 0.8 million parameters, made on the spot.

Every byte is one token, so that whatever an environment says can be read, and the chat template spends three
tokens on a turn: in a model that has to learn its alphabet, each further one costs every sequence.
"""

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

SPECIAL_TOKENS = ("<|im_start|>", "<|im_sep|>", "<|im_end|>", "<pad>")
"""Ids from 256 on. A conversation is `<|im_start|>message<|im_sep|>reply<|im_end|>` over and over."""

# A system message is left out: it would be the same bytes in front of every task.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<|im_start|>' + message['content'] + '<|im_sep|>' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + '<|im_end|>' }}{% endif %}"
    "{% endfor %}"
)

INIT_SEED = 0


def save_tiny_model(folder: Path) -> None:
    """Write the model as an ordinary Hugging Face folder. The same bytes on every call."""
    tokenizer = _tokenizer()
    vocab = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    config = Qwen3Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        bos_token_id=vocab["<|im_start|>"],
        eos_token_id=vocab["<|im_end|>"],
        pad_token_id=vocab["<pad>"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(INIT_SEED)
        model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig.from_model_config(config)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<pad>",
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)


def _tokenizer() -> Tokenizer:
    vocab = {character: byte for byte, character in enumerate(_byte_characters())}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS]
    )
    return tokenizer


def _byte_characters() -> list[str]:
    """The visible character by which byte-level tokenizers stand for each byte (GPT-2's table)."""
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = (byte for byte in range(256) if byte not in visible)
    stand_in = {byte: chr(256 + i) for i, byte in enumerate(hidden)}
    return [stand_in.get(byte, chr(byte)) for byte in range(256)]
