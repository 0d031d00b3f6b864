"""Mathematics: tasks with one right answer, and the graders that compare answers."""
