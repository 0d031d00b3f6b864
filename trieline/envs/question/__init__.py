"""Questions with a known answer, out of data sets: mathematics, choices, and short texts."""
