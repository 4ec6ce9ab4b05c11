"""`python -m prl` is `prl`."""

from prl.cli import main

if __name__ == "__main__":
    main()
