"""Equations in words: what a language model's features say of a description, clause by clause. Imports no torch."""
