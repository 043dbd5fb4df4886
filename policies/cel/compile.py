"""CEL trees to Python closures, type-checked on the way.

Each node becomes one closure `run(values, scope)`; nothing is looked up by attribute and nothing is
evaluated as Python source. A node also has, where a null may come through it, a closure that returns the
null: only comparisons with `null` and `has()` use it.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from policies.cel.code import (
    PYTHON,
    Code,
    Operation,
    Run,
    Values,
    as_double,
    combine,
    comparable,
    conform,
    constant_code,
    is_list,
    joined_type,
    literal_code,
    load,
    member_type,
    said,
    suggestion,
    wrong,
)
from policies.cel.syntax import (
    Call,
    Chain,
    Conditional,
    ConditionError,
    Index,
    Invert,
    ListLiteral,
    Literal,
    Logic,
    Name,
    Negate,
    Node,
    Relation,
    Select,
)
from policies.cel.values import ORDERS, Scope, Unknown, contains, equal, kind, order, pick, spend, to_double

ROOTS: Final = {"features": "feature", "profile": "profile field", "context": "context key"}
"""What names begin with, and what each name is called."""

BUILT_IN: Final = {"profile.open_cases": "int", "profile.timezone": "string"}


class Compiler:
    """Compiles one expression; keeps the names that it uses and the variables of its macros."""

    def __init__(
        self,
        env: Mapping[str, str],
        open_roots: frozenset[str],
        call: "Callable[[Compiler, Call], Code]",
    ) -> None:
        """Take the names with their types, the roots under which any name goes, and the functions."""
        self.call = call
        self.env = {**BUILT_IN, **env}
        self.open_roots = open_roots | {"context"}
        self.names: dict[str, None] = {}
        self.locals: dict[str, tuple[int, str]] = {}
        self.slots = 1

    def code(self, node: Node) -> Code:
        """Compile a node."""
        match node:
            case Literal():
                return literal_code(node)
            case Name():
                return self._local(node)
            case Select() | Index():
                return self._member(node)
            case Call():
                return self.call(self, node)
            case Logic():
                return self._logic(node)
            case Relation(operator="==" | "!="):
                return self._equality(node)
            case Relation(operator="in"):
                return self._in(node)
            case Relation():
                return self._order(node)
            case Chain():
                return self._chain(node)
            case Invert():
                return self._invert(node)
            case Negate():
                return self._negate(node)
            case Conditional():
                return self._conditional(node)
            case ListLiteral():
                return self._list(node)
        raise AssertionError(node)

    def need(self, code: Code, type_: str, node: Node, who: str) -> Run:
        """Return a closure of the wanted type; a dynamic value is checked when it comes."""
        run = code.run
        if code.type == type_:
            return run
        if type_ == "double" and code.type == "int":
            return lambda values, scope: to_double(run(values, scope))
        if code.type != "dyn":
            fix = "compare with null by == or !=" if code.type == "null" else f"give it {said(type_)}"
            raise wrong(f"{who} needs {said(type_)}, not {said(code.type)}", node, fix)
        label = code.label

        def run_checked(values: Values, scope: Scope) -> Any:
            value = run(values, scope)
            if kind(value) != type_:
                raise Unknown(f"{label} is not {said(type_)}")
            return value

        return run_checked

    # ------------------------------------------------------------------ names

    def _local(self, node: Name) -> Code:
        known = self.locals.get(node.name)
        if known is None:
            if node.name in ROOTS:
                raise wrong(f'"{node.name}" alone is no value', node, f"write {node.name}.NAME")
            raise self._unknown_root(node)
        slot, type_ = known
        label = node.name

        def nullable(_: Values, scope: Scope) -> Any:
            return scope[slot]

        return Code(type_, lambda _, scope: conform(scope[slot], type_, label), label, nullable)

    def _unknown_root(self, node: Name) -> ConditionError:
        near = suggestion(node.name, [*ROOTS, *self.locals])
        return wrong(
            f'unknown name "{node.name}"',
            node,
            near or "names begin with features., profile. or context., texts stand in quotes",
        )

    def _member(self, node: Select | Index) -> Code:
        target = node.target
        key = node.field if isinstance(node, Select) else None
        if isinstance(node, Index) and isinstance(node.key, Literal) and isinstance(node.key.value, str):
            key = node.key.value
        if isinstance(target, Name) and target.name not in self.locals:
            if target.name not in ROOTS:
                raise self._unknown_root(target)
            if key is None:
                raise wrong(f"{target.name}[…] needs a quoted name", node, f'write {target.name}["NAME"]')
            return self._variable(target.name, key, node)
        code = self.code(target)
        if is_list(code.type) and isinstance(node, Index):
            return self._at(code, self.code(node.key), node, member_type(code.type))
        if code.type != "dyn":
            raise wrong(f"{said(code.type)} has no members", node, "only lists and context values have")
        if isinstance(node, Index):
            return self._at(code, self.code(node.key), node, "dyn")
        return self._at(code, constant_code("string", node.field), node, "dyn")

    def _variable(self, root: str, key: str, node: Node) -> Code:
        name = f"{root}.{key}"
        type_ = self.env.get(name, "dyn" if root in self.open_roots else "")
        if not type_:
            known = [other.split(".", 1)[1] for other in self.env if other.startswith(root + ".")]
            fix = suggestion(key, known) or f"declare it in {root}.yaml"
            raise wrong(f'unknown {ROOTS[root]} "{key}"', node, fix)
        self.names[name] = None
        return load(name, "list(string)" if type_ == "list" else type_)

    def _at(self, target: Code, key: Code, node: Node, type_: str) -> Code:
        if key.type not in ({"int", "dyn"} if is_list(target.type) else {"int", "string", "dyn"}):
            raise wrong(f"a list has no place {said(key.type)}", node, "places are whole numbers from 0")
        collection, place = target.run, key.run
        part = f".{node.field}" if isinstance(node, Select) else f"[{key.label}]"
        label = target.label + part

        def nullable(values: Values, scope: Scope) -> Any:
            return pick(collection(values, scope), place(values, scope), label)

        def run(values: Values, scope: Scope) -> Any:
            return conform(pick(collection(values, scope), place(values, scope), label), type_, label)

        return Code(type_, run, label, nullable, target.steps + key.steps + 1)

    # ------------------------------------------------------------------ logic

    def _logic(self, node: Logic) -> Code:
        codes = [self.code(part) for part in node.parts]
        runs = tuple(
            self.need(code, "bool", part, node.operator) for code, part in zip(codes, node.parts, strict=True)
        )
        deciding = node.operator == "||"

        def run(values: Values, scope: Scope) -> bool:
            unknown = None
            for part in runs:
                try:
                    if part(values, scope) == deciding:
                        return deciding
                except Unknown as found:
                    unknown = unknown or found
            if unknown is not None:
                raise unknown
            return not deciding

        return Code("bool", run, steps=1 + sum(code.steps for code in codes))

    def _invert(self, node: Invert) -> Code:
        code = self.code(node.operand)
        operand = self.need(code, "bool", node, "!")
        return Code("bool", lambda values, scope: not operand(values, scope), steps=code.steps + 1)

    def _conditional(self, node: Conditional) -> Code:
        condition, yes, no = self.code(node.condition), self.code(node.yes), self.code(node.no)
        test = self.need(condition, "bool", node, "?:")
        type_ = joined_type(yes.type, no.type)
        if not type_:
            raise wrong(
                f"the branches of ?: are {said(yes.type)} and {said(no.type)}",
                node,
                "make both the same type",
            )
        if type_ == "double":
            yes, no = as_double(yes), as_double(no)
        run_yes, run_no = yes.run, no.run
        null_yes, null_no = yes.nullable or run_yes, no.nullable or run_no
        return Code(
            type_,
            lambda values, scope: run_yes(values, scope) if test(values, scope) else run_no(values, scope),
            "the value of ?:",
            lambda values, scope: null_yes(values, scope) if test(values, scope) else null_no(values, scope),
            condition.steps + yes.steps + no.steps + 1,
        )

    # ------------------------------------------------------------------ comparisons

    def _equality(self, node: Relation) -> Code:
        left, right = self.code(node.left), self.code(node.right)
        steps = left.steps + right.steps + 1
        wanted = node.operator == "=="
        if "null" in {left.type, right.type}:
            tested = left if right.type == "null" else right
            if name := tested.variable:
                return Code("bool", lambda values, _: (values.get(name) is None) is wanted, steps=steps)
            nullable = tested.nullable or tested.run
            return Code(
                "bool", lambda values, scope: (nullable(values, scope) is None) is wanted, steps=steps
            )
        if not comparable(left.type, right.type):
            raise wrong(
                f"{said(left.type)} is never equal to {said(right.type)}", node, "compare values of one type"
            )
        one, other = left.run, right.run
        if left.type in {"string", "dyn"} and left.variable and isinstance(node.right, Literal):
            name, constant = left.variable, node.right.value

            def run_variable(values: Values, scope: Scope) -> bool:
                value = values.get(name)
                if type(value) is str is type(constant):
                    return (value == constant) is wanted
                return equal(one(values, scope), constant, scope) is wanted

            return Code("bool", run_variable, steps=steps)
        if "dyn" in left.type + right.type or is_list(left.type):
            return Code(
                "bool",
                lambda values, scope: equal(one(values, scope), other(values, scope), scope) is wanted,
                steps=steps,
            )
        if wanted:
            return Code("bool", lambda values, scope: one(values, scope) == other(values, scope), steps=steps)
        return Code("bool", lambda values, scope: one(values, scope) != other(values, scope), steps=steps)

    def _order(self, node: Relation) -> Code:
        left, right, symbol = self.code(node.left), self.code(node.right), node.operator
        one, other, steps = left.run, right.run, left.steps + right.steps + 1
        if "dyn" in {left.type, right.type}:
            return Code(
                "bool",
                lambda values, scope: order(symbol, one(values, scope), other(values, scope)),
                steps=steps,
            )
        if not comparable(left.type, right.type) or is_list(left.type) or left.type == "null":
            raise wrong(
                f"{said(left.type)} and {said(right.type)} have no order",
                node,
                "compare numbers with numbers and strings with strings",
            )
        compare = ORDERS[symbol]
        if isinstance(node.right, Literal):
            constant = node.right.value
            if name := left.variable:
                classes = PYTHON[left.type]

                def run_variable(values: Values, scope: Scope) -> bool:
                    value = values.get(name)
                    return compare(value if type(value) in classes else one(values, scope), constant)

                return Code("bool", run_variable, steps=steps)
            return Code("bool", lambda values, scope: compare(one(values, scope), constant), steps=steps)
        return Code(
            "bool", lambda values, scope: compare(one(values, scope), other(values, scope)), steps=steps
        )

    def _in(self, node: Relation) -> Code:
        left, right = self.code(node.left), self.code(node.right)
        if not (is_list(right.type) or right.type == "dyn"):
            raise wrong(f"in needs a list on its right, not {said(right.type)}", node, "write x in [a, b]")
        if left.type == "null" or not comparable(left.type, member_type(right.type)):
            raise wrong(
                f"{said(left.type)} is never in {said(right.type)}",
                node,
                "look for a member of the list's type",
            )
        one, other, steps = left.run, right.run, left.steps + right.steps + 1
        if left.type == "string" == member_type(right.type):

            def run_strings(values: Values, scope: Scope) -> bool:
                members = other(values, scope)
                spend(scope, len(members))
                return bool(one(values, scope) in members)

            return Code("bool", run_strings, steps=steps)
        return Code(
            "bool",
            lambda values, scope: contains(one(values, scope), other(values, scope), scope),
            steps=steps,
        )

    # ------------------------------------------------------------------ arithmetic and lists

    def _chain(self, node: Chain) -> Code:
        first = self.code(node.first)
        type_, steps = first.type, first.steps
        operations: list[tuple[Operation, Run]] = []
        for symbol, operand in node.rest:
            code = self.code(operand)
            type_, apply = combine(symbol, type_, code.type, operand)
            operations.append((apply, code.run))
            steps += code.steps + 1
        start = first.run
        if len(operations) == 1:
            apply_one, other = operations[0]
            return Code(
                type_,
                lambda values, scope: apply_one(start(values, scope), other(values, scope), scope),
                "the result",
                steps=steps,
            )

        def run(values: Values, scope: Scope) -> Any:
            result = start(values, scope)
            for apply_next, operand_run in operations:
                result = apply_next(result, operand_run(values, scope), scope)
            return result

        return Code(type_, run, "the result", steps=steps)

    def _negate(self, node: Negate) -> Code:
        code = self.code(node.operand)
        type_, apply = combine("*", code.type, "int", node, "-")
        operand = code.run
        return Code(
            type_,
            lambda values, scope: apply(operand(values, scope), -1, scope),
            "the result",
            steps=code.steps + 1,
        )

    def _list(self, node: ListLiteral) -> Code:
        codes = [self.code(member) for member in node.members]
        if any(code.type == "null" for code in codes):
            raise wrong("a list cannot hold null", node, "test for null by == null")
        types = {code.type for code in codes}
        type_ = f"list({types.pop() if len(types) == 1 else 'dyn'})"
        if all(isinstance(member, Literal) for member in node.members):
            return constant_code(type_, tuple(m.value for m in node.members if isinstance(m, Literal)))
        runs = tuple(code.run for code in codes)
        return Code(
            type_,
            lambda values, scope: [run(values, scope) for run in runs],
            "a list",
            steps=1 + sum(code.steps for code in codes),
        )
