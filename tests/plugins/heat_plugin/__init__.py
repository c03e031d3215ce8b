"""A package that adds to ups_server what `docs/extending.md` shows."""
