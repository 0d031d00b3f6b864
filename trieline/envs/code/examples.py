"""Inputs for the hidden tests, by the kind of a parameter. Drawn from the task's own seed."""

from collections.abc import Callable, Mapping

import numpy as np

from trieline.envs.code.templates import WORDS, Constant

Value = int | str | list[int] | list[str]

_NOUNS = (*WORDS, "apple", "house", "tea", "otter", "island", "moon", "test", "ice", "summer", "oasis")


def draw(kind: str, constants: Mapping[str, Constant], rng: np.random.Generator) -> Value:
    """One input. Constants of the task are used, so that limits and letters it names really occur."""
    return _KINDS[kind](constants, rng)


def _int(constants: Mapping[str, Constant], rng: np.random.Generator) -> int:
    numbers = [value for value in constants.values() if isinstance(value, int)]
    if numbers and rng.random() < 0.4:
        return numbers[rng.integers(len(numbers))] + int(rng.integers(-1, 2))
    return int(rng.integers(-30, 31))


def _natural(constants: Mapping[str, Constant], rng: np.random.Generator) -> int:
    numbers = [value for value in constants.values() if isinstance(value, int)]
    if numbers and rng.random() < 0.3:
        return numbers[rng.integers(len(numbers))] * int(rng.integers(1, 4))
    return int(rng.integers(1, 31)) if rng.random() < 0.7 else int(rng.integers(31, 5000)) % 400


def _ints(constants: Mapping[str, Constant], rng: np.random.Generator) -> list[int]:
    count = int(rng.integers(3, 7))
    return [int(n) for n in rng.choice(np.arange(-20, 41), size=count, replace=False)]


def _repeats(constants: Mapping[str, Constant], rng: np.random.Generator) -> list[int]:
    return [int(n) for n in rng.integers(0, 5, size=int(rng.integers(4, 8)))]


def _word(constants: Mapping[str, Constant], rng: np.random.Generator) -> str:
    word = str(rng.choice(_NOUNS))
    letters = [value for value in constants.values() if isinstance(value, str)]
    if letters and rng.random() < 0.5:
        letter = letters[rng.integers(len(letters))]
        place = int(rng.choice([0, len(word), len(word) // 2]))
        word = word[:place] + letter + word[place:]
    return word


def _words(constants: Mapping[str, Constant], rng: np.random.Generator) -> list[str]:
    """Of different lengths, so that there is one longest."""
    by_length = {len(word): word for word in rng.permutation(_NOUNS)}
    lengths = rng.permutation(list(by_length))[: int(rng.integers(2, 5))]
    return [str(by_length[int(length)]) for length in lengths]


def _text(constants: Mapping[str, Constant], rng: np.random.Generator) -> str:
    words = [_word(constants, rng) for _ in range(int(rng.integers(1, 4)))]
    return " ".join(word.capitalize() if rng.random() < 0.3 else word for word in words)


def _mirror(constants: Mapping[str, Constant], rng: np.random.Generator) -> str:
    word = _word(constants, rng)
    return word + word[::-1] if rng.random() < 0.5 else word


_KINDS: Mapping[str, Callable[[Mapping[str, Constant], np.random.Generator], Value]] = {
    "int": _int,
    "natural": _natural,
    "ints": _ints,
    "repeats": _repeats,
    "word": _word,
    "words": _words,
    "text": _text,
    "mirror": _mirror,
}
