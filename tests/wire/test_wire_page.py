"""docs/wire.md: it names everything, its bytes are right, and what it says is enough for another program."""

import ast
import json
import re
import struct
import typing
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import numpy as np
import pytest

from tests.wire import plain_decoder
from tests.wire.example_messages import EXAMPLES
from tests.wire.plain_decoder import ARRAYS, TREE_ARRAYS, read_message, sequences
from trieline.wire import messages
from trieline.wire.codec import MAX_FRAMES, SMALL_BYTES, decode
from trieline.wire.tree import CAUSES, EDGE_KINDS, FORK_CAUSES, TrajectoryTree

PAGE = (Path(__file__).parents[2] / "docs/wire.md").read_text()
DATA = Path(__file__).parent / "data/messages"
MESSAGES = [
    kind for kind in vars(messages).values() if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
]


def recorded(name: str) -> list[bytes]:
    data = (DATA / f"{name}.frames").read_bytes()
    (count,) = struct.unpack_from("<I", data)
    lengths = struct.unpack_from(f"<{count}I", data, 4)
    ends = np.cumsum([4 * (1 + count), *lengths])
    assert ends[-1] == len(data)
    return [data[a:b] for a, b in pairwise(ends.tolist())]


# ---- what it names


def tables() -> dict[str, dict[str, str]]:
    """Defaults by message and field, as the page's tables have them."""
    found: dict[str, dict[str, str]] = {}
    section = message = ""
    for line in PAGE.splitlines():
        if not line.startswith("|"):
            named = re.search(r"\(`(\w+)`, ", line) or re.search(r"\(`(\w+)`\)", line)
            section = named[1] if named else section
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells[0] == "message":
            section = ""
        if cells[0] in ("message", "field", "link") or set(cells[0]) == {"-"}:
            continue
        if section:
            found.setdefault(section, {})[cells[0].strip("`")] = cells[2]
        elif len(cells) == 5:
            message = cells[0].strip("`") or message
            fields = found.setdefault(message, {})
            if cells[1]:
                fields[cells[1].strip("`")] = cells[3]
    return found


def is_array(kind: Any) -> bool:
    return typing.get_origin(kind) is np.ndarray


@pytest.mark.parametrize("kind", [*MESSAGES, TrajectoryTree], ids=lambda kind: kind.__name__)
def test_every_message_and_field_is_on_the_page(kind: Any) -> None:
    name = kind.__struct_config__.tag or kind.__name__
    fields = {f.name: f.required for f in msgspec.structs.fields(kind)}
    assert name in tables()
    written = tables()[name]
    assert set(written) >= set(fields), f"docs/wire.md lacks fields of {name}"
    assert {f for f in fields if written[f] == ""} == {f for f, required in fields.items() if required}


def test_words_and_limits_are_those_of_the_code() -> None:
    for word in (*CAUSES, *FORK_CAUSES, *EDGE_KINDS):
        assert f'"{word}"' in PAGE
    assert f"{MAX_FRAMES} frames" in PAGE
    assert f"{SMALL_BYTES:,} bytes or more" in PAGE


# ---- what it shows


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def in_bytes(block: str) -> bytes:
    return bytes.fromhex(re.sub(r"#.*|\|", "", block))


def test_the_bytes_of_the_page_are_those_that_were_recorded() -> None:
    acknowledge, packed = (in_bytes(block) for block in blocks("hex"))
    assert [acknowledge] == recorded("acknowledge")
    header, arrays = recorded("tree")
    assert packed == arrays
    (shown,) = blocks("json")
    assert json.loads(shown) == msgpack.unpackb(header)


# ---- whether it is enough


def test_the_plain_decoder_knows_nothing_of_trieline() -> None:
    names = {
        name
        for node in ast.walk(ast.parse(Path(plain_decoder.__file__).read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert names == {"typing", "msgpack", "numpy"}


def plain(message: Any) -> Any:
    """A message as maps, lists and arrays."""
    if isinstance(message, msgspec.Struct):
        tag = message.__struct_config__.tag
        named = {"type": tag} if tag else {}
        return named | {f: plain(getattr(message, f)) for f in message.__struct_fields__}
    if isinstance(message, (list, tuple)):
        return [plain(item) for item in message]
    return message.tolist() if isinstance(message, np.ndarray) else message


@pytest.mark.parametrize("name", sorted(path.stem for path in DATA.glob("*.frames")))
def test_recorded_messages_are_read_as_the_page_says(name: str) -> None:
    """Recorded by: python -m tests.wire.example_messages tests/wire/data/messages"""
    frames = recorded(name)
    fields = {
        key: {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in value.items()}
        if isinstance(value, dict)
        else plain(value)
        for key, value in read_message(frames).items()
    }
    expected = plain(EXAMPLES[name])
    # What was appended since has its default.
    assert fields == {key: expected[key] for key in fields} | {
        key: {k: expected[key][k] for k in value} for key, value in fields.items() if isinstance(value, dict)
    }
    assert plain(decode(frames, type(EXAMPLES[name]), max_bytes=1 << 20)) == expected


def test_a_large_array_is_a_frame_of_its_own() -> None:
    header, prompt = recorded("generate.long")
    assert len(prompt) == 16_384
    assert read_message([header, prompt])["prompt"].tolist() == list(range(4096))


def test_a_tree_is_rebuilt_from_recorded_bytes() -> None:
    tree = read_message(recorded("tree"))["tree"]
    assert sequences(tree) == [([5, 6, 7, 1, 2], 0.0), ([5, 6, 7, 1, 9, 2], 1.0)]
    assert tree["leaf_groups"].tolist() == [0, 1]
    runs, offsets = tree["mask_runs"].reshape(-1, 2), tree["mask_offsets"]
    masks = [runs[a:b].tolist() for a, b in pairwise(offsets.tolist())]
    sampled_under = {int(t): masks[m] for t, m in enumerate(tree["mask_index"]) if m >= 0}
    assert sampled_under == {5: [[1, 10]], 6: [[9, 10]]}
    edges = zip(tree["edge_sources"], tree["edge_targets"], tree["edge_kinds"], strict=True)
    assert [(int(a), int(b), kind) for a, b, kind in edges] == [(1, 2, "returns")]


def test_the_arrays_of_the_plain_decoder_are_those_of_the_code() -> None:
    hints = typing.get_type_hints(TrajectoryTree)
    assert list(TREE_ARRAYS) == [
        f.name for f in msgspec.structs.fields(TrajectoryTree) if is_array(hints[f.name])
    ]
    found = {
        kind.__struct_config__.tag: {
            f.name for f in msgspec.structs.fields(kind) if is_array(typing.get_type_hints(kind)[f.name])
        }
        for kind in MESSAGES
        if kind.__struct_config__.tag
    }
    assert {tag: names for tag, names in found.items() if names} == {t: set(a) for t, a in ARRAYS.items()}


def test_a_tree_written_with_msgpack_alone_is_taken() -> None:
    """The first columns only, as an actor of before the later ones writes them."""
    columns: dict[str, Any] = {
        "parents": np.array([-1, 0], "<i4"),
        "node_offsets": np.array([0, 1, 3], "<i4"),
        "sampled": np.array([False, True]),
        "rewards": np.array([0, 1], "<f4"),
        "token_ids": np.array([5, 1, 2], "<i4"),
        "behavior_logprobs": np.array([0, -1, -2], "<f4"),
        "entropies": np.array([0, np.nan, np.nan], "<f4"),
        "policy_versions": np.array([-1, 4, 4], "<i4"),
        "leaf_nodes": np.array([1], "<i4"),
        "leaf_terminated": np.array([True]),
    }
    announced = {name: [column.dtype.str, [len(column)]] for name, column in columns.items()}
    tree = announced | {"env_id": "me/Task-v0", "task_id": "t", "fork_causes": ["", ""], "leaf_causes": [""]}
    header = {"type": "tree", "actor_id": "a", "sequence_number": 0, "assignment_id": 4, "tree": tree}
    packed = b"".join(c.tobytes() + bytes(-c.nbytes % 8) for c in columns.values())
    delivery = decode([msgpack.packb(header), packed], messages.ActorToLearner, max_bytes=1 << 20)
    assert isinstance(delivery, messages.TreeDelivery)
    delivery.tree.validate(vocab_size=6)
    assert delivery.tree.token_ids[delivery.tree.sequence_index(0)].tolist() == [5, 1, 2]
    assert np.isnan(delivery.tree.entropies).tolist() == [False, True, True]
