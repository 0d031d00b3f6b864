"""Find a hidden word. After each guess every letter of it is marked: right, elsewhere, or not in the word.

Where a level shows the words that it may be, each message lists those that the marks leave: the last message
is enough to play on. The higher levels show none.
"""

import functools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trieline.envs.game.words import WORDS
from trieline.envs.text_env import TextEnv, Turn

READ_LENGTH = 1_000
"""Characters of a reply that are looked at, from its end."""
MAX_GUESSES = 20
MAX_SHOWN = 24
"""Words of a list: the name of a task holds them."""
MAX_TRIED = 40
"""Words that the expert compares as its next guess."""
WORD = re.compile(r"[a-z]+")
TASK = re.compile(
    rf"(\d{{1,2}}):([a-z]{{3,8}})(?::([a-z]{{3,8}}(?:,[a-z]{{3,8}}){{0,{MAX_SHOWN - 1}}}))?", re.ASCII
)
RIGHT, ELSEWHERE, NO = "right", "elsewhere", "no"


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """`shown` words to choose from, 0 for none."""

    letters: int
    shown: int
    guesses: int


LEVELS = (
    Level(letters=3, shown=4, guesses=2),
    Level(letters=4, shown=8, guesses=3),
    Level(letters=5, shown=20, guesses=4),
    Level(letters=4, shown=0, guesses=8),
    Level(letters=5, shown=0, guesses=6),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Secret:
    """`shown` is in the order of the alphabet and holds `word`, or is empty."""

    word: str
    shown: tuple[str, ...]
    guesses: int


class Wordle(TextEnv[Secret]):
    """Reward 1 for the word. A reply that names none, or several in its last line, costs a guess."""

    levels = len(LEVELS)

    def draw_task(self, level: int) -> Secret:
        wanted = LEVELS[level]
        words = WORDS[wanted.letters]
        picks = self.np_random.choice(len(words), size=max(1, wanted.shown), replace=False)
        shown = tuple(sorted(words[pick] for pick in picks)) if wanted.shown else ()
        return Secret(word=words[picks[0]], shown=shown, guesses=wanted.guesses)

    def task_id(self, task: Secret) -> str:
        return f"{task.guesses}:{task.word}" + (f":{','.join(task.shown)}" if task.shown else "")

    def parse_task(self, task_id: str) -> Secret:
        match = TASK.fullmatch(task_id)
        if not match:
            msg = f"expected 'guesses:word' or 'guesses:word:word,word,...' with at most {MAX_SHOWN} words"
            raise ValueError(msg)
        guesses, word = int(match[1]), match[2]
        shown = tuple(match[3].split(",")) if match[3] else ()
        if not 1 <= guesses <= MAX_GUESSES:
            msg = f"expected 1 to {MAX_GUESSES} guesses"
            raise ValueError(msg)
        if shown and (list(shown) != sorted({*shown}) or word not in shown or len({*map(len, shown)}) > 1):
            msg = "expected different words of one length in the order of the alphabet, the secret among them"
            raise ValueError(msg)
        if not shown and len(word) not in WORDS:
            msg = f"expected a word of {', '.join(map(str, WORDS))} letters"
            raise ValueError(msg)
        return Secret(word=word, shown=shown, guesses=guesses)

    def split_key(self, task: Secret) -> str:
        """Whole words are held out."""
        return task.word

    def begin(self, task: Secret) -> str:
        self.guesses_left, self.invalid = task.guesses, 0
        self.possible = task.shown or tuple(sorted({*WORDS[len(task.word)], task.word}))
        self.known = frozenset(self.possible)
        self.guesses: list[str] = []
        return self._ask()

    def act(self, action: str) -> Turn:
        self.guesses_left -= 1
        # Where one word is left, its question names just that.
        named = [] if self.question in action else named_words(action, self.known)
        if len(named) != 1:
            self.invalid += 1
            return self._next("Name one word." if named else "That names none of the words.")
        (guess,) = named
        self.guesses.append(guess)
        if guess == self.task.word:
            return Turn(observation="Correct.", reward=1.0, over=True, score=self._score(found=True))
        marks = marks_of(guess, self.task.word)
        if self.task.shown:
            self.possible = fitting(self.possible, [guess], self.task.word)
        return self._next(f"{guess}: {_told(guess, marks)}.")

    def solution(self) -> str:
        return self.task.word

    def demonstrate(self) -> Iterator[str]:
        """Guesses that leave the fewest words in the mean; the last one is the secret, known or not."""
        while self.guesses_left and not self._over:
            possible = fitting(self.possible, self.guesses, self.task.word)
            yield best_guess(possible) if self.guesses_left > 1 else self.task.word

    def shared_by_forks(self) -> tuple[object, ...]:
        shared = super().shared_by_forks()
        return shared if self._task is None else (*shared, self.possible, self.known)

    def _next(self, remark: str) -> Turn:
        if self.guesses_left:
            return Turn(observation=f"{remark} {self._ask()}")
        return Turn(observation=f"{remark} No guesses left.", over=True, score=self._score(found=False))

    def _ask(self) -> str:
        find = f"Find the secret word in {self.guesses_left} guess{'es' if self.guesses_left > 1 else ''}."
        if self.task.shown:
            *words, last = self.possible
            choice = f"{', '.join(words)} or {last}" if words else last
            self.question = f'{find} Choose {choice}. Reply with only the word, like "{self.possible[0]}".'
        else:
            length = len(self.task.word)
            self.question = f"{find} It is a common word of {length} letters. Reply with only one word."
        return self.question

    def _score(self, *, found: bool) -> dict[str, object]:
        return {
            "found": found,
            "word": self.task.word,
            "guesses": " ".join(self.guesses),
            "invalid": self.invalid,
        }


def named_words(reply: str, known: frozenset[str]) -> list[str]:
    """The words of `known` in the last line of a reply that has any, each once."""
    for line in reversed(reply[-READ_LENGTH:].lower().splitlines()):
        if named := [*dict.fromkeys(word for word in WORD.findall(line) if word in known)]:
            return named
    return []


@functools.lru_cache(maxsize=2**17)
def marks_of(guess: str, secret: str) -> str:
    """A letter for each of `guess`: `r`ight, `e`lsewhere, `n`o.

    As often as the secret has a letter it is marked, right places first, then from the left.
    """
    left = Counter(ours for ours, theirs in zip(secret, guess, strict=True) if ours != theirs)
    marks = []
    for letter, ours in zip(guess, secret, strict=True):
        if letter == ours:
            marks.append("r")
        elif left[letter]:
            left[letter] -= 1
            marks.append("e")
        else:
            marks.append("n")
    return "".join(marks)


def fitting(words: Sequence[str], guesses: Sequence[str], secret: str) -> tuple[str, ...]:
    """Of `words` those that the marks of the guesses leave."""
    marks = {guess: marks_of(guess, secret) for guess in guesses}
    return tuple(word for word in words if all(marks_of(guess, word) == marks[guess] for guess in guesses))


def _told(guess: str, marks: str) -> str:
    names = {"r": RIGHT, "e": ELSEWHERE, "n": NO}
    return ", ".join(f"{letter} {names[mark]}" for letter, mark in zip(guess, marks, strict=True))


@functools.lru_cache(maxsize=1024)
def best_guess(possible: Sequence[str]) -> str:
    """Of the possible words the one whose marks leave the fewest others in the mean."""
    tried = possible[:: -(-len(possible) // MAX_TRIED)]
    return min(
        tried, key=lambda guess: sum(n * n for n in Counter(marks_of(guess, w) for w in possible).values())
    )
