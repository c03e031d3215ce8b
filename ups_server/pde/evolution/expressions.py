"""Expanded expressions: sums of products of u and its derivatives, and a function of x."""

from dataclasses import dataclass, field

from ups_server.pde.evolution.forcing import Formula

Product = tuple[int, ...]
"""u^a u_x^b u_xx^c …: the powers (a, b, c, …), without zeros at the end."""

TIME: Product = (-1,)
"""Stands for u_t."""


@dataclass(frozen=True)
class Expression:
    """An expanded expression: products of u and its derivatives with numbers before them, and a function of x.

    Attributes:
        products: (number, character of its first appearance) of each product that holds u.
        free: what does not hold u; None for nothing.
    """

    products: dict[Product, tuple[float, int]] = field(default_factory=dict)
    free: Formula | None = None

    @property
    def number(self) -> float | None:
        """Its value where it is a constant, else None."""
        if self.products or (self.free is not None and not self.free.constant):
            return None
        return 0.0 if self.free is None else self.free.value

    def plus(self, other: "Expression") -> "Expression":
        products = dict(self.products)
        for product, (value, place) in other.products.items():
            known = products.get(product, (0.0, place))
            products[product] = (known[0] + value, known[1])
        return Expression(products, other.free if self.free is None else self.free.plus(other.free))

    def scaled(self, factor: float) -> "Expression":
        products = {product: (factor * value, place) for product, (value, place) in self.products.items()}
        return Expression(products, None if self.free is None else self.free.times(Formula.number(factor)))


def multiplied(left: Product, right: Product) -> Product:
    longer, shorter = sorted((left, right), key=len, reverse=True)
    return tuple(power + (shorter[order] if order < len(shorter) else 0) for order, power in enumerate(longer))


def differentiated(product: Product) -> list[tuple[float, Product]]:
    """d/dx of a product, as (number, product) each."""
    found = []
    for order, power in enumerate(product):
        if power:
            powers = [*product, 0]
            powers[order] -= 1
            powers[order + 1] += 1
            while powers[-1] == 0:
                powers.pop()
            found.append((float(power), tuple(powers)))
    return found


def spelled(product: Product) -> str:
    """As a reader writes it."""
    if product == TIME:
        return "u_t"
    parts = []
    for order, power in enumerate(product):
        if power:
            name = "u" + ("_" + "x" * order if order else "")
            parts.append(name if power == 1 else f"{name}^{power}")
    return "*".join(parts)
