"""Trees come in: from live actors or a recorded journal, as many as a step needs."""
