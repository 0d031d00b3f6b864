"""Grids of Sudoku, 4 x 4 and 9 x 9: drawn, solved, counted. A grid is a tuple of digits, 0 for a blank."""

import functools
from collections.abc import Iterator, Sequence

import numpy as np

Grid = tuple[int, ...]
"""Row by row."""
SIZES = (4, 9)
MAX_NODES = 20_000
"""Digits tried by one search: grids with many solutions or hard ones are given up."""


class TooHardError(ValueError):
    """A search that was given up."""


@functools.cache
def seen_from(size: int) -> tuple[tuple[int, ...], ...]:
    """For each cell the others of its row, column and box."""
    box = {4: 2, 9: 3}[size]

    def units(cell: int) -> tuple[tuple[str, int], ...]:
        row, column = divmod(cell, size)
        return ("row", row), ("column", column), ("box", row // box * box + column // box)

    cells = range(size * size)
    return tuple(
        tuple(other for other in cells if other != cell and {*units(other)} & {*units(cell)})
        for cell in cells
    )


def choices(grid: Sequence[int], size: int, cell: int) -> list[int]:
    """The digits that no cell seen from this one has."""
    taken = {grid[other] for other in seen_from(size)[cell]}
    return [digit for digit in range(1, size + 1) if digit not in taken]


def next_cell(grid: Sequence[int], size: int) -> int | None:
    """The blank with the fewest choices, the first of several; None in a full grid."""
    blanks = [cell for cell, digit in enumerate(grid) if not digit]
    return min(blanks, key=lambda cell: len(choices(grid, size, cell)), default=None)


def solutions(grid: Grid, size: int) -> Iterator[Grid]:
    """Every way to fill it. Raises TooHardError beyond `MAX_NODES`."""
    cells, tried = list(grid), 0

    def filled() -> Iterator[Grid]:
        nonlocal tried
        cell = next_cell(cells, size)
        if cell is None:
            yield tuple(cells)
            return
        for digit in choices(cells, size, cell):
            tried += 1
            if tried > MAX_NODES:
                msg = "expected a grid that is easier to solve"
                raise TooHardError(msg)
            cells[cell] = digit
            yield from filled()
        cells[cell] = 0

    return filled()


def is_consistent(grid: Grid, size: int) -> bool:
    """No digit twice in a row, column or box."""
    return all(not digit or digit in choices(grid, size, cell) for cell, digit in enumerate(grid))


def draw_full(size: int, rng: np.random.Generator) -> Grid:
    """One regular grid with its digits, rows, columns and boxes shuffled."""
    box = {4: 2, 9: 3}[size]

    def order() -> list[int]:
        return [int(band) * box + int(line) for band in rng.permutation(box) for line in rng.permutation(box)]

    digits, rows, columns = rng.permutation(size) + 1, order(), order()
    return tuple(
        int(digits[(row % box * box + row // box + column) % size]) for row in rows for column in columns
    )


def with_blanks(full: Grid, size: int, blanks: int, rng: np.random.Generator) -> Grid:
    """The grid with at most `blanks` cells blank, in a random order, while one solution is left."""
    grid = list(full)
    for cell in rng.permutation(len(full)):
        if grid.count(0) == blanks:
            break
        digit, grid[cell] = grid[cell], 0
        for other in choices(grid, size, int(cell)):
            if other != digit:
                grid[cell] = other
                try:
                    another = next(solutions(tuple(grid), size), None)
                except TooHardError:
                    another = full
                grid[cell] = 0
                if another is not None:
                    grid[cell] = digit
                    break
    return tuple(grid)
