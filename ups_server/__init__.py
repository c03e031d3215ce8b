"""UPS: one model for many partial differential equations, served over HTTP."""

__version__ = "0.2.0"
