"""The command line."""


def main() -> None:
    raise SystemExit("mmtk: not yet")
