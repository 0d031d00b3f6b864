import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.actors.scripted_policy import completion
from trieline.actors.rollout import Origin, Rollout, Turn
from trieline.actors.tree_builder import TreeBuilder, build_tree
from trieline.common.arrays import Int32
from trieline.wire.token_masks import runs_of
from trieline.wire.tree import TrajectoryTree


def ids(*tokens: int) -> Int32:
    return np.asarray(tokens, dtype=np.int32)


def rollout(index: int, prompt: Int32, *turns: tuple[Int32, Int32], cause: str = "") -> Rollout:
    return Rollout(
        index=index,
        prompt=prompt,
        turns=[Turn(context=c, completion=completion(r), reply="") for c, r in turns],
        rewards=[float(n + 1) for n in range(len(turns))],
        terminated=True,
        cause=cause,
        task_id="t",
    )


def tree_of(*rollouts: Rollout, group_size: int = 8) -> TrajectoryTree:
    tree = build_tree(rollouts, env_id="e", level=None, group_size=group_size, info={})
    tree.validate()
    return tree


def test_rollouts_of_different_prompts_part_at_the_first_difference() -> None:
    a, b, c = ids(1, 2, 3, 4), ids(1, 2, 5), ids(1, 2)
    tree = tree_of(
        rollout(0, a, (a, ids(9))),
        rollout(1, b, (b, ids(9))),
        rollout(2, a, (a, ids(8))),
        rollout(3, c, (c, ids(7))),
    )
    sequences = [tree.token_ids[tree.sequence_index(leaf)].tolist() for leaf in range(4)]
    assert sequences == [[1, 2, 3, 4, 9], [1, 2, 5, 9], [1, 2, 3, 4, 8], [1, 2, 7]]
    assert tree.fork_causes == ("", "", "token_mismatch", "", "", "rollout", "rollout")


def test_a_broken_leaf_is_never_terminated() -> None:
    prompt = ids(1)
    tree = tree_of(rollout(0, prompt, (prompt, ids(2)), cause="sandbox"))
    assert (tree.leaf_causes, tree.leaf_terminated.tolist()) == (("sandbox",), [False])


def test_a_rollout_that_never_began_hangs_on_the_prompt_of_the_others() -> None:
    prompt = ids(1, 2)
    tree = tree_of(Rollout(index=0, cause="timeout"), rollout(1, prompt, (prompt, ids(3))))
    assert (tree.leaf_nodes.tolist(), tree.task_id) == ([0, 1], "t")


def test_a_context_of_no_tokens_is_no_node() -> None:
    prompt = ids(1)
    tree = tree_of(rollout(0, prompt, (prompt, ids(2)), (ids(), ids(3))))
    assert (tree.parents.tolist(), tree.sampled.tolist()) == ([-1, 0, 1], [False, True, True])
    assert tree.rewards.tolist() == [0, 1, 2]


def test_nothing_at_all_is_a_tree_of_one_token() -> None:
    tree = tree_of(Rollout(index=0, cause="environment"), Rollout(index=1, cause="sandbox"))
    assert (tree.num_tokens, tree.leaf_causes) == (1, ("environment", "sandbox"))


def tokens_of(of: Rollout, last_turn: int | None = None) -> Int32:
    """Context and replies of the own turns before `last_turn` (None: all), in order."""
    return np.concatenate(
        [ids(), *(run for t in of.turns[:last_turn] for run in (t.context, t.completion.token_ids))]
    )


tokens = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(lambda t: ids(*t))
contexts = st.lists(st.integers(0, 3), max_size=3).map(lambda t: ids(*t))


@st.composite
def task(draw: st.DrawFn) -> tuple[list[Rollout], list[list[int]]]:
    """Rollouts and forks, and the tokens of each one's sequence."""
    prompt = draw(tokens)
    group: list[Rollout] = []
    for index in range(draw(st.integers(1, 4))):
        count = draw(st.integers(0, 4))
        turns = [(prompt if turn == 0 else draw(contexts), draw(tokens)) for turn in range(count)]
        group.append(rollout(index, prompt, *turns))
    sequences = [(tokens_of(r) if r.turns else prompt).tolist() for r in group]
    forks: list[Rollout] = []
    for _ in range(draw(st.integers(0, 3))):
        origin = draw(st.sampled_from(group))
        if len(origin.turns) < 2:
            continue
        turn = draw(st.integers(1, len(origin.turns) - 1))
        own = [(ids() if n == 0 else draw(contexts), draw(tokens)) for n in range(draw(st.integers(0, 3)))]
        fork = rollout(len(group) + len(forks), prompt, *own)
        fork.prompt, fork.origin = None, Origin(rollout=origin.index, turn=turn)
        forks.append(fork)
        before = [*tokens_of(origin, turn).tolist(), *origin.turns[turn].context.tolist()]
        sequences.append([*before, *tokens_of(fork).tolist()])
    return [*group, *forks], sequences


@given(task())
def test_every_sequence_is_its_rollout_s(drawn: tuple[list[Rollout], list[list[int]]]) -> None:
    rollouts, sequences = drawn
    tree = tree_of(*rollouts)
    assert tree.num_leaves == len(rollouts)
    for leaf, sequence in enumerate(sequences):
        assert tree.token_ids[tree.sequence_index(leaf)].tolist() == sequence
    own_rewards = sum(sum(r.rewards) for r in rollouts)
    assert tree.rewards.sum() == pytest.approx(own_rewards)


def test_groups_masks_and_edges_become_columns() -> None:
    builder = TreeBuilder()
    prompt = builder.add_context(-1, ids(1, 2), fork_cause="")
    only_names = runs_of(np.isin(np.arange(10), [3, 4, 9]))
    masked = {"mask_offsets": ids(0, 2), "mask_runs": only_names}
    reply = replace(completion(ids(3, 5, 4)), mask_index=ids(0, -1, 0), **masked)
    first = builder.add_sampled(prompt, reply, fork_cause="")
    window = builder.add_context(prompt, ids(5, 6), fork_cause="compaction")
    masked = {"mask_offsets": ids(0, 1, 3), "mask_runs": ids(9, 10, 3, 5, 9, 10)}
    reply = replace(completion(ids(9, 9)), mask_index=ids(1, 0), **masked)
    last = builder.add_sampled(window, reply, fork_cause="")
    builder.add_edge(first, window, kind="continues")
    builder.add_leaf(first, terminated=True, cause="")
    builder.add_leaf(last, terminated=True, cause="", group=1)
    tree = builder.build(env_id="e", task_id="t", level=0, info={})
    tree.validate(vocab_size=10)
    assert tree.leaf_groups.tolist() == [0, 1]
    assert tree.mask_index.tolist() == [-1, -1, 0, -1, 0, -1, -1, 0, 1]
    assert [tree.mask(m).tolist() for m in range(tree.num_masks)] == [[3, 5, 9, 10], [9, 10]]
    assert (tree.edge_sources.tolist(), tree.edge_targets.tolist()) == ([first], [window])
    assert tree.edge_kinds == ("continues",)


def test_what_was_not_added_is_left_at_its_default() -> None:
    tree = tree_of(rollout(0, ids(1), (ids(1), ids(2))))
    for column in (tree.leaf_groups, tree.mask_index, tree.mask_offsets, tree.mask_runs, tree.edge_sources):
        assert column.tolist() == []


def test_one_estimate_marks_the_tree() -> None:
    prompt = ids(1, 2)
    plain = rollout(0, prompt, (prompt, ids(9)))
    assert not tree_of(plain).entropies_estimated
    estimated = rollout(1, prompt, (prompt, ids(8)))
    (turn,) = estimated.turns
    about = dataclasses.replace(turn, completion=replace(turn.completion, entropies_estimated=True))
    tree = tree_of(plain, dataclasses.replace(estimated, turns=[about]))
    assert tree.entropies_estimated
