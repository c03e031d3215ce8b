"""The resources, one file each. A new resource is a new file and one line here."""

from fastapi.routing import APIRoute

from ups_server.api.routes import (
    equations,
    evaluations,
    families,
    files,
    fine_tuning,
    health,
    keys,
    metrics,
    models,
    page,
    rollouts,
    stored_rollouts,
)
from ups_server.api.routes import super_resolution as super_resolution_routes

ROUTERS = (
    page.router,
    health.router,
    metrics.router,
    keys.router,
    families.router,
    equations.router,
    files.router,
    models.router,
    rollouts.router,
    stored_rollouts.router,
    super_resolution_routes.router,
    evaluations.router,
    fine_tuning.router,
)


def methods(path: str) -> set[str]:
    """All methods that a path answers, whichever routes they belong to."""
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    return {method for route in routes if route.path_regex.match(path) for method in route.methods or ()}
