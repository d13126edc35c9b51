"""`python -m scratch.trainer` is the command `trainer`."""

from scratch.trainer.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
