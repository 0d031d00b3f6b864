"""What `trieline sft` makes of conversations: regressions, each an input of a few lines."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.cases.commands import INPUTS, run_of, settings, steps_of, trieline
from tests.cases.model_folders import make_model
from tests.cases.trained_on import nodes_of, trained_texts
from trieline.actors.chat import ChatRenderer
from trieline.actors.conversations import read_conversations
from trieline.actors.errors import ConversationError


def test_01_sft_weight_zero(smollm2: Path) -> None:
    nodes = nodes_of(INPUTS / "01_sft_weight_zero.jsonl", smollm2)
    assert [node.text for node in nodes if node.trained] == ["No: Paris.<|im_end|>"]
    assert "Lyon.<|im_end|>" in nodes[0].text


def test_02_sft_tool_calls(smollm2: Path) -> None:
    renderer = ChatRenderer(smollm2, system_prompt="")
    with pytest.raises(
        ConversationError, match="line 1: the chat template does not show tools and tool_calls"
    ):
        read_conversations(INPUTS / "02_sft_tool_calls.jsonl", renderer)


def test_04_sft_special_token_text(smollm2: Path) -> None:
    nodes = [node for node in nodes_of(INPUTS / "04_sft_special_token_text.jsonl", smollm2) if node.trained]
    assert [node.text for node in nodes] == [
        "Run git add <filename>.<|im_end|>",
        "git clone <repo_name><|im_end|>",
    ]
    for node in nodes:
        assert not {"<filename>", "<repo_name>"} & set(node.tokens)


def test_05_sft_bom(tmp_path: Path) -> None:
    file = INPUTS / "05_sft_bom.jsonl"
    assert file.read_bytes().startswith(b"\xef\xbb\xbf")
    ran = trieline(
        "sft", str(file), *settings(model__path="builtin:tiny", learner__trees_per_step=1), cwd=tmp_path
    )
    assert len(steps_of(run_of(ran.expect(0)))) == 2


def test_07_sft_reply_with_newline(trims: Path) -> None:
    file = INPUTS / "07_sft_reply_with_newline.jsonl"
    assert trained_texts(file, trims) == ["2<|im_end|>", "4<|im_end|>"]
    expect_tokens_of_the_template(file, trims)


def test_09_sft_metaspace(tmp_path: Path) -> None:
    model, file = make_model("metaspace", tmp_path / "m"), INPUTS / "09_sft_metaspace.jsonl"
    assert [node.tokens[0] for node in nodes_of(file, model) if node.trained] == ["T", "F"]
    expect_tokens_of_the_template(file, model)


def expect_tokens_of_the_template(file: Path, model: Path) -> None:
    """The tokens of the only conversation of `file` are those of transformers."""
    (tokens_of_the_template,) = shown_by_transformers(file, model)
    tokens = [token for node in nodes_of(file, model) for token in node.tokens]
    assert tokens == tokens_of_the_template


def shown_by_transformers(file: Path, model: Path) -> list[list[str]]:
    """The tokens of each conversation of `file` by transformers' own rendering."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    return [
        tokenizer.convert_ids_to_tokens(
            tokenizer.apply_chat_template(json.loads(line)["messages"], tokenize=True, return_dict=False)
        )
        for line in file.read_text().splitlines()
    ]


def test_10_sft_prefilled_thinking(tmp_path: Path) -> None:
    model = make_model("prefilled", tmp_path / "m")
    asked, reply = nodes_of(INPUTS / "10_sft_prefilled_thinking.jsonl", model)
    assert asked.text == "<|im_start|>1 + 1?<|im_sep|><think>\n"
    assert reply.text == "one and one\n</think>\n\n2<|im_end|>"
    assert (asked.trained, reply.trained) == (False, True)


def test_12_sft_remainder(tmp_path: Path) -> None:
    ran = trieline(
        "sft", str(INPUTS / "12_sft_remainder.jsonl"), *settings(model__path="builtin:tiny"), cwd=tmp_path
    )
    assert [step["batch/trees"] for step in steps_of(run_of(ran.expect(0)))] == [8, 7]


def test_32_sft_too_long(trims: Path, tmp_path: Path) -> None:
    file = INPUTS / "32_sft_too_long.jsonl"
    ran = trieline("sft", str(file), *settings(model__path=trims, learner__trees_per_step=1), cwd=tmp_path)
    lengths = [len(tokens) for tokens in shown_by_transformers(file, trims)]
    listed = "; ".join(f"line {line}: {length:,} tokens" for line, length in enumerate(lengths, start=1))
    assert (
        f"{file}: longer than the 512 tokens that the model was made for (2): {listed}" in ran.expect(0).said
    )
