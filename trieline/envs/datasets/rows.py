"""One row of a data set: its columns by the names that an environment knows them by, each read with its type.

Columns of a data set have names of their own; `columns` in a configuration says which of them is what. A
name with full stops leads into records: `reward_model.ground_truth`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trieline.common.text import shortened
from trieline.envs.datasets.records import said
from trieline.envs.datasets.task_set import Difficulty
from trieline.envs.errors import DataError

MOST_TEXT = 1_000_000
"""Code points of one text of a row."""
_MISSING: Any = object()
_NAMED_DIFFICULTIES = {
    **dict.fromkeys(("very easy", "trivial"), 0.0),
    **dict.fromkeys(("easy", "introductory", "beginner"), 1.0),
    **dict.fromkeys(("medium", "interview", "intermediate", "moderate"), 2.0),
    **dict.fromkeys(("hard", "competition", "advanced", "difficult"), 3.0),
    **dict.fromkeys(("very hard", "expert", "challenge"), 4.0),
}
"""Words that published data has for it, APPS and LiveCodeBench among them. Others go by the alphabet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """`columns`: the names that an environment asks for, and those of the data to look under, in order."""

    values: Mapping[str, Any]
    columns: Mapping[str, Sequence[str]]

    def text(self, name: str) -> str:
        """A text that is there and not empty. Numbers are texts, too. Raises DataError."""
        found = self.optional_text(name)
        if not found:
            raise DataError(self._problem(name, "a text", self.value(name)))
        return found

    def optional_text(self, name: str) -> str | None:
        """None where there is none. Raises DataError for what is no text."""
        value = self.value(name)
        if value is None:
            return None
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return repr(value) if isinstance(value, float) and not value.is_integer() else str(int(value))
        if not isinstance(value, str):
            raise DataError(self._problem(name, "a text", value))
        if len(value) > MOST_TEXT:
            msg = f"{name}: expected at most {MOST_TEXT:,} characters, got {len(value):,}"
            raise DataError(msg)
        return value

    def value(self, name: str) -> Any:
        """What stands in the first of its columns that the row has, None without any. NaN is none."""
        for column in self.columns.get(name, (name,)):
            found = self._at(column)
            if found is not _MISSING and found is not None and found == found:
                return found
        return None

    def difficulty(self, name: str = "level") -> Difficulty | None:
        """What rows are sorted into levels by: a number, or a text; None where there is neither."""
        value = self.value(name)
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            return None
        if isinstance(value, str):
            return _NAMED_DIFFICULTIES.get(value.strip().lower().replace("_", " ").replace("-", " "), value)
        try:
            return float(value)
        except OverflowError:
            raise DataError(self._problem(name, "a number up to 1e308", value)) from None

    def texts(self, name: str, most: int) -> tuple[str, ...]:
        """A list of at most `most` texts, or one text; empty where there is none. Raises DataError."""
        value = self.value(name)
        if value is None:
            return ()
        found = [value] if isinstance(value, str) else value
        if not isinstance(found, list) or len(found) > most or not all(isinstance(one, str) for one in found):
            raise DataError(self._problem(name, f"a list of at most {most:,} texts", value))
        return tuple(found)

    def _at(self, column: str) -> Any:
        if column in self.values:
            return self.values[column]
        value: Any = self.values
        for part in column.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return _MISSING
            value = value[part]
        return value

    def _problem(self, name: str, expected: str, value: Any) -> str:
        looked = self.columns.get(name, (name,))
        if value is None:
            there = shortened(", ".join(sorted(map(str, self.values))), 300) or "none"
            return f"{name}: expected {expected} in the column {' or '.join(looked)}, got the columns {there}"
        return f"{name}: expected {expected} in the column {' or '.join(looked)}, got {said(value)}"
