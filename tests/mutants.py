"""The small changes of a module's source that mutation testing tries (see mutate.py)."""

import ast
import re

COMPARISONS = {
    **{"<": ("<=", ">"), "<=": ("<", ">"), ">": (">=", "<"), ">=": (">", "<"), "==": ("!=",), "!=": ("==",)},
    **{"is": ("is not",), "is not": ("is",), "in": ("not in",), "not in": ("in",)},
}
ARITHMETIC = {
    **{"+": ("-",), "-": ("+",), "*": ("/",), "/": ("*",), "//": ("*",), "%": ("*",), "**": ("*",)},
    **{"&": ("|",), "|": ("&",), "<<": (">>",), ">>": ("<<",)},
}
LOGIC = {"and": ("or",), "or": ("and",)}
NAMES = {
    **{"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "argmax": "argmin", "argmin": "argmax"},
    **{"any": "all", "all": "any", "floor": "ceil", "ceil": "floor", "zeros": "ones", "ones": "zeros", "empty": "ones"},
    **{"zeros_like": "ones_like", "ones_like": "zeros_like"},
}


def mutants(source):
    """All mutants of a module: a list of (first byte, last byte, replacement), in the order of the source."""
    return sorted(set(_Finder(source).found))


class _Finder(ast.NodeVisitor):
    """Walks over the syntax tree. Messages, docstrings and `warm_up` of a kernel stay as they are."""

    def __init__(self, source):
        self.source, self.found, self.starts = source.encode(), [], [0]
        for line in self.source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.visit(ast.parse(source))

    def start(self, node):
        return self.starts[node.lineno - 1] + node.col_offset

    def end(self, node):
        return self.starts[node.end_lineno - 1] + node.end_col_offset

    def replace(self, node, text):
        self.found.append((self.start(node), self.end(node), text))

    def operator(self, left, right, pattern, table):
        """Replace the operator between two operands: it is in the source that follows the left one."""
        start = self.end(left)
        gap = self.source[start : self.start(right)].decode("latin1")  # a character per byte
        match = re.search(pattern, re.sub("#.*", lambda comment: " " * len(comment[0]), gap))
        for new in table.get(" ".join(match[0].split()), ()):
            self.found.append((start + match.start(), start + match.end(), new))

    def visit_Compare(self, node):
        for left, right in zip([node.left, *node.comparators], node.comparators):
            self.operator(left, right, r"is\s+not|not\s+in|is|in|[<>=!]+", COMPARISONS)
        self.generic_visit(node)

    def visit_BoolOp(self, node):
        for left, right in zip(node.values, node.values[1:]):
            self.operator(left, right, "and|or", LOGIC)
        self.generic_visit(node)

    def visit_BinOp(self, node):
        self.operator(node.left, node.right, r"[-+*/%&|<>@^]+", ARITHMETIC)
        self.generic_visit(node)

    def visit_AugAssign(self, node):
        self.operator(node.target, node.value, r"[-+*/%&|<>@^]+", ARITHMETIC)
        self.replace(node, "pass")
        self.generic_visit(node)

    def visit_UnaryOp(self, node):
        self.replace(node, self.source[self.start(node.operand) : self.end(node.operand)].decode())
        if not isinstance(node.operand, ast.Constant):  # -1 is often an axis, and -2 would change nothing
            self.generic_visit(node)

    def visit_Constant(self, node):
        if isinstance(node.value, bool):
            self.replace(node, str(not node.value))
        elif isinstance(node.value, int):
            self.replace(node, str(node.value + 1))
        elif isinstance(node.value, float):
            self.replace(node, str(node.value * 2 or 1.0))

    def visit_Name(self, node):
        if node.id in NAMES:
            self.replace(node, NAMES[node.id])

    def visit_Attribute(self, node):
        if node.attr in NAMES:
            self.found.append((self.end(node) - len(node.attr), self.end(node), NAMES[node.attr]))
        self.generic_visit(node)

    def visit_Assign(self, node):
        if isinstance(node.targets[0], (ast.Subscript, ast.Attribute)):
            self.replace(node, "pass")
        self.generic_visit(node)

    def visit_Expr(self, node):
        if not isinstance(node.value, ast.Constant):
            self.replace(node, "pass")
            self.generic_visit(node)

    def visit_Raise(self, node):
        self.replace(node, "pass")

    def visit_JoinedStr(self, node):
        pass

    def visit_FunctionDef(self, node):
        if node.name == "warm_up":
            return
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if isinstance(default, ast.Constant) and isinstance(default.value, str):
                self.replace(default, '"another"')
        self.generic_visit(node)
