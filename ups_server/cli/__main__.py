"""`python -m ups_server.cli` is `ups`."""

from ups_server.cli import main

if __name__ == "__main__":
    main()
