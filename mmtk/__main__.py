"""``python -m mmtk`` is the command ``mmtk``."""

from mmtk.cli import main

if __name__ == "__main__":
    main()
