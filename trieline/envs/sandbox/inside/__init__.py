"""What runs inside a sandbox. Standard library of Python 3.9 only; `bundle` sends it there as source."""
