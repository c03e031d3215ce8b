"""Files such as the PINN literature's burgers_shock.mat: a wave that steepens between walls, exact by Cole and Hopf.

    u_t + u u_x = nu u_xx on [-1, 1], u = 0 at both ends, u(x, 0) = -A sin(pi x)

u = -2 nu w_x / w, where w solves the heat equation, is a quotient of integrals against a Gaussian (Basdevant et al.
1986, "Spectral and finite difference solutions of the Burgers equation"), here by Gauss-Hermite quadrature.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import savemat

POINTS, FRAMES, LAST = 256, 100, 0.99
NODES, WEIGHTS = np.polynomial.hermite.hermgauss(100)


def shock(x: NDArray[np.float64], t: NDArray[np.float64], nu: float, amplitude: float = 1.0) -> NDArray[np.float64]:
    """u (X, T)."""
    places = x[:, None, None] - NODES * np.sqrt(4 * nu * t)[:, None]
    exponent = -amplitude * np.cos(np.pi * places) / (2 * np.pi * nu)
    weights = WEIGHTS * np.exp(exponent - exponent.max(-1, keepdims=True))
    mean = (np.sin(np.pi * places) * weights).sum(-1) / weights.sum(-1)
    return np.asarray(-amplitude * mean)


def write_shock(path: Path, nu: float = 0.01 / np.pi, amplitude: float = 1.0, say_nu: bool = False) -> Path:
    """x on nodes with both ends, t, usol (x, t), and nothing else: the file of the literature does not say nu."""
    x, t = np.linspace(-1, 1, POINTS), np.linspace(0, LAST, FRAMES)
    usol = shock(x, t, nu, amplitude)
    usol[[0, -1]] = 0.0
    said = {"nu": nu} if say_nu else {}
    savemat(path, {"x": x[:, None], "t": t[:, None], "usol": usol, **said}, appendmat=False)
    return path
