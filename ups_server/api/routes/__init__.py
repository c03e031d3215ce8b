"""The resources, one file each. A new resource is a new file and one line here."""

from ups_server.api.routes import evaluations, families, files, fine_tuning, health, models, page, rollouts
from ups_server.api.routes import super_resolution as super_resolution_routes

ROUTERS = (
    page.router,
    health.router,
    families.router,
    files.router,
    models.router,
    rollouts.router,
    super_resolution_routes.router,
    evaluations.router,
    fine_tuning.router,
)
