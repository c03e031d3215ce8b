"""What the service has: families, models, the key in hand."""

import json
from typing import Any

from ups_server.client.operation import Ask, Operation, asked, deleted, got
from ups_server.client.problems import segment


def families() -> Operation[list[dict[str, Any]]]:
    """Every family of the service."""
    return list((yield from got("/v1/families"))["families"])


def family(family_id: str) -> Operation[dict[str, Any]]:
    """One family. Raises UserError ``unknown_family``."""
    return (yield from got(f"/v1/families/{segment(family_id)}"))


def equation(
    text: str | None = None, description: str | None = None, **coefficients: float
) -> Operation[dict[str, Any]]:
    """The canonical form of an equation in symbols, or a proposal for a description in words.

    Raises:
        UserError: ``invalid_equation``, ``missing_coefficient``, ``ill_posed``, ``text_too_long``.
    """
    given = {"equation": text, "description": description, "coefficients": coefficients}
    content = json.dumps({name: value for name, value in given.items() if value}).encode()
    headers = {"Content-Type": "application/json"}
    return dict((yield from asked(Ask("POST", "/v1/equations", content, headers, repeatable=True))).json())


def models() -> Operation[list[dict[str, Any]]]:
    """Every model of the service, without scores and cards."""
    return list((yield from got("/v1/models"))["models"])


def model(model_id: str) -> Operation[dict[str, Any]]:
    """One model with its scores and card. Raises UserError ``unknown_model``."""
    return (yield from got(f"/v1/models/{segment(model_id)}"))


def delete_model(model_id: str) -> Operation[None]:
    """Removes an adapted model. Raises UserError ``unknown_model``, ``model_in_use``, ``not_deletable``."""
    yield from deleted(f"/v1/models/{segment(model_id)}")


def current_key() -> Operation[dict[str, Any]]:
    """The client's own key: what it allows and what it has used."""
    return (yield from got("/v1/keys/current"))
