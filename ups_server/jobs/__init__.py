"""Durable jobs: one table that is the truth, and workers that lease what is in it. Only tasks may import torch."""
