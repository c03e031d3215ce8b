"""Equations in symbols: from ``u_t = -u*u_x + 0.01*u_xx + u*(1-u)`` to its canonical form.

Both sides are expanded into sums of products of u, u_x, u_xx, … and a function of x: a derivative of a product is
carried out by the rule of Leibniz, so that ``(u^2/2)_x`` and ``u*u_x`` are the same. What is left has to be a sum of
terms of the library, and a function of x. Nothing is evaluated but numbers, named coefficients and these rules.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, reduce
from typing import NoReturn

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedToken

from ups_server.errors import UserError
from ups_server.pde.equation import Equation, Formula

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


MAX_CHARACTERS = 500
MAX_DEPTH = 20
"""Brackets inside of each other."""
MAX_LEVELS = 100
"""Of the tree of an expression: a sum or product of so many parts."""
MAX_PRODUCTS = 200
"""Summands of an expanded expression."""
MAX_EXPONENT = 8

GRAMMAR = r"""
start: sum "=" sum

?sum: product
    | sum "+" product           -> add
    | sum _MINUS product        -> subtract

?product: power
    | _MINUS product            -> negative
    | "+" product
    | product _TIMES factor     -> times
    | product "/" factor        -> divide
    | product power             -> times

?factor: power
    | _MINUS factor             -> negative

?power: atom
    | atom _POWER exponent      -> raised
    | atom SUPERSCRIPT          -> superscript

?exponent: atom
    | _MINUS atom               -> negative

?atom: NUMBER                   -> number
    | DERIVATIVE                -> derivative
    | FRACTION                  -> fraction
    | U                         -> unknown
    | X                         -> position
    | NAME                      -> name
    | FUNCTION bracket          -> function
    | bracket SUBSCRIPT         -> subscripted
    | OPERATOR atom             -> operated
    | bracket

?bracket: "(" sum ")" | "[" sum "]"

_TIMES: "*" | "·" | "×" | "⋅"
_MINUS: "-" | "−" | "–"
_POWER: "^" | "**"
SUPERSCRIPT: /[²³⁴]/
U.2: /u(?![A-Za-z0-9_])/
X.2: /x(?![A-Za-z0-9_])/
FUNCTION.3: /(sin|cos|tanh|exp|sqrt)(?=\s*[(\[])/
DERIVATIVE.4: /u_(t|x{1,8}|\{t\}|\{x{1,8}\})(?![A-Za-z0-9_])/
FRACTION.4: /[d∂](\^?[1-8]|[²³⁴])?\s*u\s*\/\s*[d∂](t|x(\^?[1-8]|[²³⁴])?)(?![A-Za-z0-9_])/
OPERATOR.4: /([d∂](\^?[1-8]|[²³⁴])?\s*\/\s*[d∂]x(\^?[1-8]|[²³⁴])?|∂_(x{1,8}|\{x{1,8}\}))/
SUBSCRIPT: /_(x{1,8}|\{x{1,8}\})(?![A-Za-z0-9_])/
NUMBER: /(\d+\.\d*|\.\d+|\d+)([eE][+-]?\d+)?/
NAME: /[A-Za-zα-ωΑ-Ω][A-Za-z0-9α-ωΑ-Ω_]*/

%import common.WS
%ignore WS
"""

CONSTANTS = {"pi": math.pi, "π": math.pi}

LIBRARY: dict[Product, str] = {
    (0, 1): "transport",
    (1, 1): "self_advection",
    (0, 0, 1): "diffusion",
    (0, 0, 0, 1): "dispersion",
    (0, 0, 0, 0, 1): "biharmonic",
    (1,): "growth",
    (2,): "quadratic",
    (3,): "cubic",
}


def parse_equation(text: str, coefficients: Mapping[str, float] | None = None) -> Equation:
    """The canonical form of an equation in symbols.

    Args:
        coefficients: values of the names it uses.

    Raises:
        UserError: ``invalid_equation`` and ``missing_coefficient``, which say at which character;
            ``unknown_coefficient``.
    """
    _check_size(text)
    reader = _Reader(text, dict(coefficients or {}))
    tree = _parsed(text)
    left, right = (reader.read(side) for side in tree.children)
    unused = sorted(set(reader.values) - reader.used)
    if unused:
        raise UserError(
            "unknown_coefficient",
            f"the equation has no coefficient {unused[0]}",
            got=unused,
            expected=sorted(reader.used),
        )
    return reader.canonical(left.plus(right.scaled(-1.0)))


def _check_size(text: str) -> None:
    if len(text) > MAX_CHARACTERS:
        raise UserError(
            "invalid_equation",
            "the equation is too long",
            got=f"{len(text)} characters",
            expected=f"at most {MAX_CHARACTERS}",
        )
    depth = 0
    for place, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if depth > MAX_DEPTH:
            _refuse(text, place, f"brackets are more than {MAX_DEPTH} deep here")


@cache
def _grammar() -> Lark:
    return Lark(GRAMMAR, parser="lalr", propagate_positions=True, maybe_placeholders=False)


def _parsed(text: str) -> "Tree[Token]":
    try:
        tree = _grammar().parse(text)
    except UnexpectedCharacters as error:
        place = error.pos_in_stream or 0
        _refuse(text, place, f"{text[place]!r} has no meaning here")
    except UnexpectedToken as error:
        place = len(text) if error.token.type == "$END" else error.token.start_pos or 0
        _refuse(text, place, "the equation ends too early" if place == len(text) else "this cannot stand here")
    except UnexpectedEOF:
        _refuse(text, len(text), "the equation ends too early")
    level, levels = [tree], 0
    while level:
        level, levels = [child for node in level for child in node.children if isinstance(child, Tree)], levels + 1
        if levels > MAX_LEVELS:
            _refuse(text, 0, f"the equation has more than {MAX_LEVELS} parts in a row")
    return tree


def _refuse(text: str, place: int, message: str, expected: str | None = None) -> NoReturn:
    """What is wrong, and at which character, counted from one."""
    raise UserError(
        "invalid_equation",
        f"{message} (character {place + 1})",
        got={"equation": text, "character": place + 1, "at": text[place : place + 12] or "the end"},
        expected=expected or "u_t = … with u, u_x, u_xx, u_xxx, u_xxxx, numbers, named coefficients and functions of x",
    )


class _Reader:
    """Expands the tree of one text."""

    def __init__(self, text: str, values: dict[str, float]) -> None:
        self.text, self.values = text, values
        self.used: set[str] = set()
        self._rules: dict[str, Callable[[Tree[Token]], Expression]] = {
            "number": lambda node: Expression(free=Formula.number(float(str(node.children[0])))),
            "position": lambda node: Expression(free=Formula("x")),
            "unknown": lambda node: self._u(0, node),
            "derivative": self._derivative,
            "fraction": self._fraction,
            "name": self._name,
            "function": self._function,
            "subscripted": lambda node: self._derived(node.children[0], str(node.children[1]).count("x"), node),
            "operated": lambda node: self._derived(node.children[1], _orders(str(node.children[0])), node),
            "add": lambda node: self._sides(node)[0].plus(self._sides(node)[1]),
            "subtract": lambda node: self._sides(node)[0].plus(self._sides(node)[1].scaled(-1.0)),
            "negative": lambda node: self.read(node.children[0]).scaled(-1.0),
            "times": lambda node: self._times(*self._sides(node), node),
            "divide": self._divide,
            "raised": self._raised,
            "superscript": lambda node: self._power(
                self.read(node.children[0]), "⁰¹²³⁴".index(str(node.children[1])), node
            ),
        }

    def read(self, node: "Tree[Token] | Token") -> Expression:
        assert isinstance(node, Tree)
        return self._rules[node.data](node)

    def canonical(self, difference: Expression) -> Equation:
        """From left minus right, which is to hold u_t."""
        products = dict(difference.products)
        rate, _ = products.pop(TIME, (0.0, 0))
        if rate == 0.0:
            _refuse(self.text, 0, "the equation has no u_t")
        found = dict[str, float]()
        for product, (value, place) in products.items():
            if value == 0.0:
                continue
            if product not in LIBRARY:
                known = ", ".join(map(spelled, LIBRARY))
                _refuse(self.text, place, f"{spelled(product)} is no term of the library", f"a sum of {known}")
            found[LIBRARY[product]] = -value / rate
        free = difference.free
        if free is not None:
            free = free.times(Formula.number(-1.0 / rate))
        if free is not None and free.constant and free.value == 0.0:
            free = None
        return Equation.of(found, free)

    def _place(self, node: "Tree[Token]") -> int:
        return int(node.meta.start_pos)

    def _sides(self, node: "Tree[Token]") -> tuple[Expression, Expression]:
        left, right = (self.read(child) for child in node.children)
        return left, right

    def _u(self, order: int, node: "Tree[Token]") -> Expression:
        return Expression({(*(0,) * order, 1): (1.0, self._place(node))})

    def _derivative(self, node: "Tree[Token]") -> Expression:
        subscript = str(node.children[0])[1:]
        if "t" in subscript:
            return Expression({TIME: (1.0, self._place(node))})
        return self._u(subscript.count("x"), node)

    def _fraction(self, node: "Tree[Token]") -> Expression:
        written = "".join(str(node.children[0]).split())
        above, below = written.split("/")
        if below[1] == "t":
            if len(above) > 2:
                _refuse(self.text, self._place(node), "only the first derivative in time is understood")
            return Expression({TIME: (1.0, self._place(node))})
        order, other = _digits(above), _digits(below)
        if order != other:
            _refuse(self.text, self._place(node), "the orders above and below the line differ")
        return self._u(order, node)

    def _name(self, node: "Tree[Token]") -> Expression:
        name = str(node.children[0])
        if name in CONSTANTS:
            return Expression(free=Formula.number(CONSTANTS[name]))
        if name not in self.values:
            raise UserError(
                "missing_coefficient",
                f"{name} has no value (character {self._place(node) + 1})",
                got={"equation": self.text, "character": self._place(node) + 1, "at": name},
                expected=f'"coefficients": {{"{name}": …}}',
                hint="u is the unknown, x the position; every other name needs a value among the coefficients",
            )
        self.used.add(name)
        return Expression(free=Formula.number(self.values[name]))

    def _function(self, node: "Tree[Token]") -> Expression:
        name, inside = str(node.children[0]), self.read(node.children[1])
        if inside.products or inside.free is None:
            _refuse(self.text, self._place(node), f"{name} of u is no term of the library")
        whole = Formula(name, (inside.free,))
        return Expression(free=Formula.number(self._finite(whole.value, node)) if whole.constant else whole)

    def _derived(self, inner: "Tree[Token] | Token", order: int, node: "Tree[Token]") -> Expression:
        found = self.read(inner)
        if found.free is not None and not found.free.constant:
            _refuse(self.text, self._place(node), "write the derivative of a function of x out")
        products = found.products
        for _ in range(order):
            derived: dict[Product, tuple[float, int]] = {}
            for product, (value, place) in products.items():
                if product == TIME:
                    _refuse(self.text, place, "u_t cannot stand inside a derivative")
                for factor, result in differentiated(product):
                    known = derived.get(result, (0.0, place))
                    derived[result] = (known[0] + factor * value, place)
            products = derived
        return Expression(products)

    def _times(self, left: Expression, right: Expression, node: "Tree[Token]") -> Expression:
        for number, other in ((left.number, right), (right.number, left)):
            if number is not None:
                return other.scaled(self._finite(number, node))
        if left.free is not None and right.free is not None and not (left.products or right.products):
            return Expression(free=left.free.times(right.free))
        products: dict[Product, tuple[float, int]] = {}
        free = self._constants(left, right, node)
        for a, (x, place) in [*left.products.items(), ((), (free[0], self._place(node)))]:
            for b, (y, _) in [*right.products.items(), ((), (free[1], place))]:
                if TIME in (a, b) and a and b:
                    _refuse(self.text, place, "u_t can be multiplied by numbers only")
                if a or b:
                    product = multiplied(a, b)
                    products[product] = (products.get(product, (0.0, 0))[0] + x * y, place)
        if len(products) > MAX_PRODUCTS or any(max(product) > MAX_EXPONENT for product in products):
            _refuse(self.text, self._place(node), "this product is too long")
        rest = free[0] * free[1]
        kept = {product: entry for product, entry in products.items() if entry[0] != 0.0}
        return Expression(kept, Formula.number(rest) if rest else None)

    def _constants(self, left: Expression, right: Expression, node: "Tree[Token]") -> list[float]:
        """The numbers that stand beside the products of two sums; functions of x cannot be multiplied by u."""
        if any(side.free is not None and not side.free.constant for side in (left, right)):
            _refuse(self.text, self._place(node), "a coefficient that depends on x is not understood")
        return [0.0 if side.free is None else side.free.value for side in (left, right)]

    def _divide(self, node: "Tree[Token]") -> Expression:
        above, below = self._sides(node)
        number = below.number
        if number is not None:
            return above.scaled(self._finite(1.0 / number if number else math.inf, node))
        if below.products:
            _refuse(self.text, self._place(node), "a division by u is no term of the library")
        if above.products or above.free is None or below.free is None:
            _refuse(self.text, self._place(node), "a coefficient that depends on x is not understood")
        return Expression(free=Formula("/", (above.free, below.free)))

    def _raised(self, node: "Tree[Token]") -> Expression:
        base, power = self._sides(node)
        exponent = power.number
        if exponent is None:
            _refuse(self.text, self._place(node), "an exponent has to be a number")
        return self._power(base, exponent, node)

    def _power(self, base: Expression, exponent: float, node: "Tree[Token]") -> Expression:
        if not base.products and base.free is not None:
            whole = Formula("^", (base.free, Formula.number(exponent)))
            return Expression(free=Formula.number(self._finite(whole.value, node)) if whole.constant else whole)
        if exponent not in range(MAX_EXPONENT + 1):
            _refuse(self.text, self._place(node), f"an exponent of u is a whole number from 0 to {MAX_EXPONENT}")
        one = Expression(free=Formula.number(1.0))
        return reduce(lambda product, _: self._times(product, base, node), range(int(exponent)), one)

    def _finite(self, value: float, node: "Tree[Token]") -> float:
        if not math.isfinite(value):
            _refuse(self.text, self._place(node), "this is no finite number")
        return value


def _digits(part: str) -> int:
    """The order of a derivative as it is written above or below a line."""
    for character in part:
        if character in "²³⁴":
            return "⁰¹²³⁴".index(character)
        if character.isdigit():
            return int(character)
    return 1


def _orders(operator: str) -> int:
    """Of ``∂_xx``, ``d^2/dx^2`` and the like."""
    if "_" in operator:
        return operator.count("x")
    return _digits(operator.split("/")[0])
