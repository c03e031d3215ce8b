"""Python clients: rollouts as `xarray.Dataset`, problem documents as `UserError`. Import no torch."""

from ups_server.client.clients import AsyncClient, Client
from ups_server.client.messages import (
    CheckpointDocument,
    Document,
    EquationDocument,
    FamilyDocument,
    FileDocument,
    JobDocument,
    KeyDocument,
    ModelDocument,
    ReportDocument,
    ServerEvent,
    Step,
)

__all__ = [
    "AsyncClient",
    "CheckpointDocument",
    "Client",
    "Document",
    "EquationDocument",
    "FamilyDocument",
    "FileDocument",
    "JobDocument",
    "KeyDocument",
    "ModelDocument",
    "ReportDocument",
    "ServerEvent",
    "Step",
]
