"""The UPS model: superspace, FNO embedder, metadata tokens, LLM body, linear predictor (thesis chapter 6).

A process that imports it keeps the memory that it frees.
"""

from ups_server.model.allocation import keep_freed_memory

keep_freed_memory()
