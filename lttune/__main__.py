"""`python -m lttune`: the same command where it is not installed, as in a submitted job."""

from lttune.cli import main

if __name__ == "__main__":
    main()
