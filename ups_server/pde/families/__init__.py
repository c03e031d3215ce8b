"""The equations: one file each, found by `ups_server.pde.registry`."""
