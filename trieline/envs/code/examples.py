"""Inputs for the hidden tests, by the kind of a parameter: first the edges, then some at random.

The edges are the same for a task for ever, and are where near misses show: nothing, one, zero, around every
constant of the task (as a value and as a length), repetitions, both cases of letters.
"""

from collections.abc import Callable, Mapping

import numpy as np

from trieline.envs.code.templates import WORDS, Constant

Value = int | str | list[int] | list[str]

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_TEXTS = ("", "a", "Sun", "ice  tea", " moon ", "Hello World", "aAbB", "AEIOU aeiou", "Why, yes?", "a1!")
_NOUNS = (*WORDS, "apple", "house", "tea", "otter", "island", "moon", "test", "ice", "summer", "oasis")


def draw(kind: str, constants: Mapping[str, Constant], rng: np.random.Generator) -> Value:
    """One input. Constants of the task are used, so that limits and letters it names really occur."""
    return _KINDS[kind](constants, rng)


def edge_calls(params: Mapping[str, str], constants: Mapping[str, Constant]) -> list[tuple[Value, ...]]:
    """Inputs for all parameters at once; some may be outside of what the function is defined for."""
    edges = [_edges(kind, constants) for kind in params.values()]
    # Each parameter is one ahead of the one before it, so that two of a kind differ.
    return [
        tuple(values[(row + column) % len(values)] for column, values in enumerate(edges))
        for row in range(max(map(len, edges)))
    ]


def _edges(kind: str, constants: Mapping[str, Constant]) -> list[Value]:
    numbers = [value for value in constants.values() if isinstance(value, int)]
    letters = [value for value in constants.values() if isinstance(value, str) and len(value) == 1]
    around = [number + step for number in numbers for step in (-1, 0, 1)]
    words = [form for c in letters for form in (c, c + c, f"{c}x", f"x{c}", f"x{c}x", *_capital(c))]
    edges: dict[str, list[Value]] = {
        "int": [*around, 0, 1, 2, -1, -3, *(-number for number in numbers)],
        "natural": [*around, 0, 1, 2, 9, 10, 99, 100, *(2 * number for number in numbers)],
        "ints": [[n - 1, n - 1, n, n + 1, n + 1] for n in numbers],
        # 17, 8 and 1 are not in order in a set either.
        "repeats": [[], [3], [2, 2], [3, 1, 3, 1], [17, 8, 1, 8]],
        "word": [*words, "", "a", "ab", "aba"],
        "words": [[], ["sun"], ["house", "sun"], ["sun", "apple"], ["a", "island", "tea"]],
        "text": [*(_LETTERS[:length] for length in around), *words, *_TEXTS],
        "mirror": ["", "a", "ab", "aba", "abba", "abab", "abca"],
    }
    edges["distinct"] = [[0], [1, 2], [-5, -1, -9], [3, 9, 4], [5, 0, -5, 1]]
    edges["filled"] = [*edges["distinct"], [4, 4, -2, 4], [2, 3, 2, 3]]
    edges["ints"] += [*edges["filled"], []]
    return edges[kind]


def _capital(letter: str) -> tuple[str, str]:
    return f"{letter.upper()}x", f"x{letter.upper()}"


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
    "filled": _ints,
    "distinct": _ints,
    "repeats": _repeats,
    "word": _word,
    "words": _words,
    "text": _text,
    "mirror": _mirror,
}
