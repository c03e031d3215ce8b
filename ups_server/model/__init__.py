"""The UPS model: superspace, FNO embedder, metadata tokens, LLM body, linear predictor (thesis chapter 6)."""
