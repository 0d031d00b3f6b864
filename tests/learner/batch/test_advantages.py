import numpy as np
import pytest

from trieline.learner.batch.advantages import group_advantages, return_scale, tree_advantages
from trieline.learner.batch.episodes import Episodes
from trieline.learner.batch.trie import build_trie


def test_group_leaves_one_out() -> None:
    returns = np.array([1.0, 0.0, 0.5, 0.0])
    expected = [r - np.delete(returns, i).mean() for i, r in enumerate(returns)]
    np.testing.assert_allclose(group_advantages(returns), expected, rtol=1e-14)


def test_a_lone_rollout_has_no_advantage() -> None:
    assert group_advantages(np.array([1.0])).tolist() == [0.0]


def test_tree_credits_the_branch_where_paths_parted() -> None:
    # Prompt 9; two rollouts begin with 1 and part after it, a third ends there, a fourth begins with 2.
    sequences = [[9, 1, 3, 3], [9, 1, 4], [9, 1], [9, 2]]
    returns = np.array([1.0, 0.0, 0.5, 0.0])
    trie = build_trie([np.array(s, np.int32) for s in sequences])
    by_token = tree_advantages(trie, returns)
    mean, mean_of_1 = returns.mean(), returns[:3].mean()
    by_path = [by_token[path].tolist() for path in trie.paths]
    assert by_path[0] == pytest.approx([0, mean_of_1 - mean, 1 - mean_of_1, 1 - mean_of_1])
    assert by_path[1] == pytest.approx([0, mean_of_1 - mean, 0 - mean_of_1])
    assert by_path[2] == pytest.approx([0, mean_of_1 - mean])
    assert by_path[3] == pytest.approx([0, 0 - mean])


def test_tree_advantages_of_siblings_balance() -> None:
    rng = np.random.default_rng(0)
    sequences = [np.concatenate([[7], rng.integers(0, 2, 6)]).astype(np.int32) for _ in range(20)]
    trie = build_trie(sequences)
    returns = rng.normal(size=20)
    by_token = tree_advantages(trie, returns)
    through = np.bincount(np.concatenate(trie.paths))
    for parent in range(trie.num_tokens):
        children = np.flatnonzero(trie.predecessor == parent)
        # Branches that part here, weighted by how many took them, have advantage zero in the mean.
        if len(children) > 1:
            assert float((through[children] * by_token[children]).sum()) == pytest.approx(0, abs=1e-12)


def test_return_scale_of_equal_returns_is_finite() -> None:
    assert np.isfinite(return_scale(np.ones(4)))
    assert return_scale(np.array([0.0, 2.0])) == pytest.approx(1.0, rel=1e-5)


def in_episodes(*members: list[int]) -> Episodes:
    """Episodes by the sequences of each."""
    pairs = [(b, e) for e, own in enumerate(members) for b in own]
    sequences, episodes = np.array(pairs).T
    return Episodes(
        num_sequences=len(set(sequences.tolist())),
        num_episodes=len(members),
        sequences=sequences,
        episodes=episodes,
    )


def test_an_episode_counts_once_however_many_windows_it_has() -> None:
    episodes = in_episodes([0, 1], [2], [3, 4, 5])
    returns = np.array([1.0, 0.0, 0.25])
    alone = group_advantages(returns)
    assert group_advantages(returns, episodes).tolist() == pytest.approx(alone[[0, 0, 1, 2, 2, 2]].tolist())
    # By hand: prompt 9, then each window its own branch; the prompt's mean is over three episodes.
    sequences = [np.array([9, branch, 7], np.int32) for branch in range(1, 7)]
    trie = build_trie(sequences)
    by_token = tree_advantages(trie, returns, episodes)
    mean = (1.0 + 0.0 + 0.25) / 3
    for path, own in zip(trie.paths, returns[[0, 0, 1, 2, 2, 2]], strict=True):
        assert by_token[path].tolist() == pytest.approx([0, own - mean, own - mean])


def test_branches_of_a_window_are_compared_by_episodes() -> None:
    """Two windows begin alike and part; one of them is of an episode with many sequences more."""
    sequences = [[9, 1, 3], [9, 1, 4], [9, 2, 5], [9, 2, 6], [9, 7]]
    trie = build_trie([np.array(s, np.int32) for s in sequences])
    episodes = in_episodes([0, 2, 3, 4], [1])
    by_token = tree_advantages(trie, np.array([1.0, 0.0]), episodes)
    by_path = [by_token[path].tolist() for path in trie.paths]
    # All episodes came by [9, 1], and half of those that did went on with 3.
    assert by_path[0] == pytest.approx([0, 0, 1.0 - 0.5])
    assert by_path[1] == pytest.approx([0, 0, 0.0 - 0.5])
    # Only the first came by [9, 2], which it left twice: nothing to compare there.
    assert by_path[2] == by_path[3] == pytest.approx([0, 0.5, 0.5])
    assert by_path[4] == pytest.approx([0, 0.5])


def test_a_window_that_was_forked_stands_for_the_mean_of_its_episodes() -> None:
    # Window 0 goes on in 1 and, by a fork, in 2; the sequence 3 is an episode of its own.
    episodes = in_episodes([0, 1], [0, 2], [3])
    assert episodes.counts.tolist() == [2, 1, 1, 1]
    returns = np.array([1.0, 0.0, 0.2])
    expected = [0.5 - 0.2, 1.0 - (0.0 + 0.2) / 2, 0.0 - (1.0 + 0.2) / 2, 0.2 - (1.0 + 0.0) / 2]
    assert group_advantages(returns, episodes).tolist() == pytest.approx(expected)


def test_a_lone_episode_of_windows_has_no_advantage() -> None:
    assert group_advantages(np.ones(1), in_episodes([0, 1])).tolist() == [0.0, 0.0]
