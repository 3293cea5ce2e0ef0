"""The command line. Importing it, and every command that only lists or checks, loads neither torch nor monai."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command ``mmtk``."""
    from mmtk.cli.process import settle

    settle()
    try:
        from mmtk.cli.app import OPTIONS, app

        words = list(sys.argv[1:] if arguments is None else arguments)
        if words and words[0].startswith("-") and words[0] not in OPTIONS:
            # A setting typed as an option, without a command: `run` knows what to advise.
            words.insert(0, "run")
        app(args=words, prog_name="mmtk")
    except KeyboardInterrupt:  # before a command could catch it
        sys.stderr.write("stopped\n")
        sys.exit(130)
