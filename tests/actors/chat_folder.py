"""A small model folder's chat half: a tokenizer trained on a few lines, and a template."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are small.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXT = (
    "You are a helpful assistant.\nsystem\nuser\nassistant\n",
    "What is 12 + 30? Reply with the number only.\n42\n",
    "turn 1 of 3: say good or bad.\ngood\nbad\n",
)

Kind = Literal["byte_level", "metaspace", "prepend", "unigram"]
KINDS: tuple[Kind, ...] = ("byte_level", "metaspace", "prepend", "unigram")
"""GPT-2's, and those of SentencePiece: a word boundary before a text, or after every special token too, and
one whose pieces have scores."""


def write_chat_folder(
    folder: Path,
    *,
    template: str | None = CHATML,
    eos: str = "<|im_end|>",
    special: Sequence[str] = SPECIAL,
    kind: Kind = "byte_level",
    strips: Sequence[str] = (),
) -> Path:
    """Write tokenizer, template and the configs around them. Tokens of `strips` swallow space after them."""
    folder.mkdir(parents=True, exist_ok=True)
    makers = {"byte_level": _byte_level, "unigram": _unigram}
    tokenizer = makers[kind](special) if kind in makers else _sentence_piece(special, kind)
    tokenizer.add_special_tokens([AddedToken(t, rstrip=t in strips, normalized=False) for t in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": special[1]}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": eos}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0]}))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def _byte_level(special: Sequence[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT * 4, trainer)
    return tokenizer


def _unigram(special: Sequence[str]) -> Tokenizer:
    """With special tokens among its pieces, at the best score: their letters would become them."""
    letters = ["▁", "\n", *(chr(c) for c in range(33, 127)), "é"]
    pieces = [*((word, 0.0) for word in special), ("<unk>", 0.0), *((letter, -5.0) for letter in letters)]
    tokenizer = Tokenizer(models.Unigram([*pieces, ("▁t", -4.0), ("\n\n", -4.0)], unk_id=len(special)))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def _sentence_piece(special: Sequence[str], kind: Kind) -> Tokenizer:
    """With merges across spaces and lines, and some that make a special token of its letters."""
    words = [*special, "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += ["▁", "\n", *(chr(c) for c in range(33, 127))]
    merges = [("▁", "t"), ("▁t", "w"), ("▁", "T"), ("o", "o"), ("▁", "▁"), ("\n", "\n"), ("▁", "4")]
    merges += [("<", "/"), ("s", ">"), ("<", "s>"), ("</", "s>")]
    words += [a + b for a, b in merges if a + b not in special]
    vocab = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    if kind == "metaspace":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer
