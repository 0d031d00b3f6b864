"""Small model folders with one peculiarity each.

They start from the built-in tiny model, with new random weights.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from trieline.learner.model_folder.model_source import prepare_model

END = "<|im_end|>"
ROWS = 260
# A message is <|im_start|>text<|im_sep|>, its reply text<|im_end|>.
TRIMS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content | trim + '<|im_end|>' }}"
    "{% else %}{{ '<|im_start|>' + (m.content | trim) + '<|im_sep|>' }}{% endif %}{% endfor %}"
)
PREFILLED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ m.content.split('</think>')[-1] + '<|im_end|>' }}"
    "{% else %}{{ '<|im_start|>' + m.content + '<|im_sep|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<think>\n' }}{% endif %}"
)
# Of SmolLM2-135M-Instruct, as are the tokens.
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SMOLLM2_TOKENS = ("<repo_name>", "<reponame>", "<file_sep>", "<filename>", "<gh_stars>", "<jupyter_code>")


def make_model(kind: str, folder: Path) -> Path:
    """A model folder with the peculiarity `kind`, at `folder`."""
    source = prepare_model("builtin:tiny")
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
        shutil.copyfile(source / name, folder / name)
    _random_model(folder, "llama")
    KINDS[kind](folder)
    return folder


def _trim(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(TRIMS)


def _prefilled(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(PREFILLED)


def _smollm2(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(SMOLLM2)
    _add_tokens(folder, *SMOLLM2_TOKENS)
    _random_model(folder, "llama", vocab_size=ROWS + len(SMOLLM2_TOKENS))


def _metaspace(folder: Path) -> None:
    """A tokenizer of SentencePiece's manner: a word boundary before the first piece of every text."""
    words = ["<unk>", "<|im_start|>", "<|im_sep|>", END, "<pad>"]
    words += [f"<0x{byte:02X}>" for byte in range(256)] + ["\u2581"] + [chr(c) for c in range(33, 127)]
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": w, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
            for i, w in enumerate(words[:5])
        ],
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581",
                          "prepend_scheme": "first", "split": False},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
                  "vocab": {w: i for i, w in enumerate(words)}, "merges": []},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    _change(folder / "generation_config.json", bos_token_id=1, eos_token_id=3, pad_token_id=4)
    _random_model(folder, "llama", vocab_size=len(words))


def _compiled(folder: Path) -> None:
    """As the state of a model is saved that torch.compile has wrapped."""
    weights = {f"_orig_mod.{name}": tensor for name, tensor in load_file(_weights(folder)).items()}
    save_file(weights, _weights(folder), {"format": "pt"})


def _other_head(folder: Path) -> None:
    """The config ties the head to the embedding, and the file has a head that differs: a merged adapter."""
    tensors = load_file(_weights(folder))
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].flip(0).contiguous()
    save_file(tensors, _weights(folder), {"format": "pt"})


def _added_token(folder: Path) -> None:
    """One token more than the embedding has rows."""
    _add_tokens(folder, "<think>", special=False)


def _special_think(folder: Path) -> None:
    _add_tokens(folder, "[THINK]", "[/THINK]")
    _random_model(folder, "llama", vocab_size=ROWS + 2)


def _pointer(folder: Path) -> None:
    """A Git checkout without its large files."""
    _weights(folder).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def _cut(folder: Path) -> None:
    """A download that broke off."""
    _weights(folder).write_bytes(_weights(folder).read_bytes()[:-1000])


def _float32_rotary(folder: Path) -> None:
    """A model whose queries and keys are rotated in float32, whatever it computes in."""
    _random_model(folder, "ernie4_5")


KINDS: dict[str, Callable[[Path], None]] = {
    "added_token": _added_token,
    "compiled": _compiled,
    "cut": _cut,
    "float32_rotary": _float32_rotary,
    "metaspace": _metaspace,
    "other_head": _other_head,
    "pointer": _pointer,
    "prefilled": _prefilled,
    "smollm2": _smollm2,
    "special_think": _special_think,
    "trim": _trim,
}


def _weights(folder: Path) -> Path:
    return folder / "model.safetensors"


def _random_model(folder: Path, kind: str, **settings: object) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        **{"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
           "num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": True,
           "vocab_size": ROWS, "bos_token_id": 256, "eos_token_id": 258, "pad_token_id": 259, **settings},
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    generation = (folder / "generation_config.json").read_text()
    model.save_pretrained(folder)
    (folder / "generation_config.json").write_text(generation)


def _add_tokens(folder: Path, *texts: str, special: bool = True) -> None:
    path = folder / "tokenizer.json"
    tokens: list[dict[str, Any]] = json.loads(path.read_text())["added_tokens"]
    tokens += [
        {**tokens[0], "id": ROWS + i, "content": text, "special": special} for i, text in enumerate(texts)
    ]
    _change(path, added_tokens=tokens)


def _change(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
