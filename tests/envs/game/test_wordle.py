"""Marks are exact, also for letters that come twice, and one word is a guess."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trieline.envs.errors import TaskError
from trieline.envs.game.wordle import LEVELS, Wordle, fitting, marks_of, named_words
from trieline.envs.game.words import WORDS

FEW_LETTERS = st.text("abc", min_size=5, max_size=5)


def marks_by_the_rules(guess: str, secret: str) -> str:
    """Slowly: right places take their letters first, then each other letter of the guess looks for one."""
    marks, free = ["n"] * len(guess), list(secret)
    for place, letter in enumerate(guess):
        if secret[place] == letter:
            marks[place] = "r"
            free.remove(letter)
    for place, letter in enumerate(guess):
        if marks[place] == "n" and letter in free:
            marks[place] = "e"
            free.remove(letter)
    return "".join(marks)


@given(FEW_LETTERS, FEW_LETTERS)
def test_marks_are_those_of_the_rules(guess: str, secret: str) -> None:
    assert marks_of(guess, secret) == marks_by_the_rules(guess, secret)


@pytest.mark.parametrize(
    ("guess", "secret", "marks"),
    [
        ("speed", "abide", "nnene"),
        ("speed", "erase", "eneen"),
        ("speed", "steal", "rnrnn"),
        ("speed", "crepe", "neren"),
        ("allee", "apple", "rennr"),
    ],
)
def test_letters_that_come_twice(guess: str, secret: str, marks: str) -> None:
    assert marks_of(guess, secret) == marks


@given(FEW_LETTERS, FEW_LETTERS)
def test_the_secret_always_fits(guess: str, secret: str) -> None:
    assert fitting([secret], [guess], secret) == (secret,)


def test_words_are_words() -> None:
    for length, words in WORDS.items():
        assert all(
            len(word) == length and word.isascii() and word.islower() and word.isalpha() for word in words
        )
        assert len(words) > 100


def test_a_game() -> None:
    env = Wordle()
    text, _ = env.reset(options={"task_id": "3:cat:cap,cat,dog,tap"})
    assert text == (
        "Find the secret word in 3 guesses. Choose cap, cat, dog or tap. "
        'Reply with only the word, like "cap".'
    )
    assert env.step("It is CAP!")[0].startswith(
        "cap: c right, a right, p no. Find the secret word in 2 guesses. Choose cat. Reply"
    )
    assert env.step(env.question)[0].startswith(
        "That names none of the words. Find the secret word in 1 guess."
    )
    text, reward, over, _, info = env.step(f"{text}\nI would say\ncat.\n")
    assert (text, reward, over) == ("Correct.", 1.0, True)
    assert info["score"] == {"found": True, "word": "cat", "guesses": "cap cat", "invalid": 1}


def test_several_words_are_no_guess() -> None:
    env = Wordle()
    text, _ = env.reset(options={"task_id": "3:cat:cap,cat,dog,tap"})
    assert env.step(text)[0].startswith("That names none of the words. Find")
    assert env.step("cow")[0].startswith("That names none of the words. ")
    text, reward, over, _, info = env.step("cat, or dog")
    assert (text, reward, over) == ("Name one word. No guesses left.", 0.0, True)
    assert info["score"]["invalid"] == 3


def test_higher_levels_show_no_words_and_know_many() -> None:
    env = Wordle(level=4)
    text, info = env.reset(seed=0)
    assert "It is a common word of 5 letters." in text
    assert info["task_id"].partition(":")[2] not in text
    assert " elsewhere" in env.step("irate")[0] or env.step("heart")[0].startswith("heart: ")


@pytest.mark.parametrize("level", range(1, len(LEVELS)))
def test_the_expert_finds_most_words_without_knowing_them(level: int) -> None:
    env = Wordle(level=level)
    known = 0
    for seed in range(20):
        env.reset(seed=seed)
        turns = [env.step(word) for word in env.demonstrate()]
        assert turns[-1][1] == 1.0
        known += len(turns) < LEVELS[level].guesses
    assert known >= 10


def test_words_of_the_test_split_are_never_the_secret_of_the_other() -> None:
    words: Any = {}
    for split in ("train", "test"):
        env = Wordle(split=split)
        words[split] = {env.parse_task(env.reset(seed=seed)[1]["task_id"]).word for seed in range(200)}
    assert not words["train"] & words["test"]
    assert len(words["test"]) > 10


@pytest.mark.parametrize(
    "task_id",
    ["", "cat", "0:cat", "21:cat", "2:ca", "2:Cat", "2:cat:dog,fox", "2:cat:dog,cat", "2:cat:cat,cat",
     "2:cat:cat,door", "2:abcdef", "2:cat:", "2:cat\n"],
)  # fmt: skip
def test_impossible_secrets_are_refused(task_id: str) -> None:
    with pytest.raises(TaskError):
        Wordle().reset(options={"task_id": task_id})


def test_the_last_line_with_a_word_is_read() -> None:
    assert named_words("cat\ndog\n\n", frozenset({"cat", "dog"})) == ["dog"]
    assert named_words("Dog, dog and dogs", frozenset({"cat", "dog"})) == ["dog"]
    assert named_words('"cat"\nThe correct answer is', frozenset({"cat", "dog"})) == ["cat"]
    assert named_words(" \n", frozenset({"cat"})) == []
