"""`python -m nastool` is the same as the installed `nastool`."""

from nastool.cli import main

if __name__ == "__main__":
    main()
