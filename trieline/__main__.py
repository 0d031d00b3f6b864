"""`python -m trieline` is the `trieline` command."""

from trieline.command_line import main

if __name__ == "__main__":
    raise SystemExit(main())
