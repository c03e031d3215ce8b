"""The resources, one module a group; `api.app` lists their routers."""
