"""The command line: `graphwright capture | optimize | export | diff | explain | bisect | view | verify | ...`.

Exit status: 0 fine, 1 mismatch or failure, 2 usage.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit status.

    Args:
        arguments: Words after the program's name; those of the process where None.

    Raises:
        SystemExit: Always, with the exit status.
    """
    from graphwright.cli.app import app
    from graphwright.cli.console import show_error
    from graphwright.ir.errors import GraphwrightError

    try:
        app(args=None if arguments is None else list(arguments), prog_name="graphwright")
    except GraphwrightError as error:
        show_error(error)
        sys.exit(1)
