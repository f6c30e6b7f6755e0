"""``python -m musedeep`` is the ``musedeep`` command."""

from musedeep.cli import main

if __name__ == "__main__":
    main()
