"""The resources, one file each. A new resource is a new file and one line here."""

from ups_server.api.routes import (
    evaluations,
    families,
    files,
    fine_tuning,
    health,
    models,
    page,
    rollouts,
    stored_rollouts,
)

ROUTERS = (
    page.router,
    health.router,
    families.router,
    files.router,
    models.router,
    rollouts.router,
    stored_rollouts.router,
    evaluations.router,
    fine_tuning.router,
)
