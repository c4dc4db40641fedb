"""``python -m jola``: the command line."""

from jola.cli.main import main

if __name__ == "__main__":
    main()
