"""``nbcloud``, and ``python -m nbcloud`` where that is not on the path; Ctrl-C counts from the first line."""

import sys


def main() -> int:
    """Run the command line, which takes a moment to be imported."""
    try:
        from nbcloud import cli

        return cli.main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
