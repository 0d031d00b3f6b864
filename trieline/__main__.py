"""`python -m trieline` is the `trieline` command."""

import os
import sys

if __name__ == "__main__":
    if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:  # noqa: PTH109  # pathlib could be taken from there
        # Python puts the working folder first, whose files then pass for installed modules. The command
        # itself looks there last.
        del sys.path[0]
    from trieline.command_line import main

    raise SystemExit(main())
