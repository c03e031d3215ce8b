"""The command `ups`. Starts without torch: every command imports what it needs when it runs."""

from ups_server.cli.app import app, main

__all__ = ["app", "main"]
