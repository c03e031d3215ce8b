"""How collections and conventions name the arrays of their files, and a mapping proposed from it."""
