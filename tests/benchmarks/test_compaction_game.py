"""The game of notes: who wins it, and what a learner has of it with edges and without."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from benchmarks.compaction import as_trained
from benchmarks.compaction_game import ASKED, ENV_ID, NotePlayer, Things, demonstration
from tests.actors.scripted_policy import ScriptedPolicy
from trieline.actors.chat import ChatRenderer
from trieline.learner.batch.sequences import scored_sequences
from trieline.learner.model_folder.tiny_model import save_tiny_model
from trieline.wire.messages import Assignment, Sampling
from trieline.wire.tree import TrajectoryTree


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> ChatRenderer:
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny_model(Path(folder))
    return ChatRenderer(Path(folder), system_prompt="")


def play(renderer: ChatRenderer, about: str) -> TrajectoryTree:
    """Two rollouts of a note about a letter, and an answer out of the note whatever it is about."""

    def script(prompt: str, sampling: Sampling) -> str:
        said = prompt.removeprefix("<|im_start|>").removesuffix("<|im_sep|>")
        if "|" in said:
            return said[said.index("|") - 1]
        return said[said.index(about) :][:2]

    player = NotePlayer(renderer, ScriptedPolicy(renderer, script), seed=0)
    task = Assignment(assignment_id=0, env_id=ENV_ID, seed=3, group_size=2)
    tree = asyncio.run(player.play(task))
    tree.validate(vocab_size=renderer.vocab_size)
    return tree


def test_who_noted_what_is_asked_wins_and_the_note_has_the_return_of_the_answer(
    renderer: ChatRenderer,
) -> None:
    things = Things.drawn(3)
    other = next(
        a for a, d in zip(things.letters, things.digits, strict=True) if a != ASKED and d != things.answer
    )
    won, lost = play(renderer, ASKED), play(renderer, other)
    assert won.episodes() == lost.episodes() == [[0, 1], [2, 3]]
    assert won.sequence_returns() == [1.0] * 4
    assert lost.sequence_returns() == [0.0] * 4


def test_without_edges_a_note_earns_nothing(renderer: ChatRenderer) -> None:
    tree = play(renderer, ASKED)
    for setting, groups in (("apart", [0, 1, 0, 1]), ("together", [0, 0, 0, 0])):
        (sequences,) = scored_sequences([as_trained(tree, setting)])
        assert [s.sequence_return for s in sequences] == [0.0, 1.0, 0.0, 1.0]
        assert [s.leaf_group for s in sequences] == groups
    assert as_trained(tree, "continues") is as_trained(tree, "vtrace") is tree


def test_demonstrations_do_not_know_what_will_be_asked(renderer: ChatRenderer) -> None:
    trees = [demonstration(renderer, seed) for seed in range(200)]
    notes = [renderer.decode(tree.token_ids[tree.node_tokens(int(tree.leaf_nodes[0]))]) for tree in trees]
    about = np.array([note.startswith(ASKED) for note in notes])
    won = np.array([tree.sequence_return(0) for tree in trees])
    assert 0.2 < about.mean() < 0.5
    assert won[about].all()
    assert won[~about].mean() < 0.25
