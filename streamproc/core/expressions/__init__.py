"""SQL expressions: one grammar for features, confidence and rules, compiled to Polars.

>>> import polars as pl
>>> rule = compile_expression("amount > limit", {"amount": pl.Int64()}, {"limit": 100}, want="boolean")
>>> pl.DataFrame({"amount": [50, 150, None]}).select(matched=rule.expr)["matched"].to_list()
[False, True, None]
"""

from streamproc.core.expressions.compiler import Expression, Want, compile_expression
from streamproc.core.expressions.parser import MAX_CHARACTERS, MAX_NESTING

__all__ = ["MAX_CHARACTERS", "MAX_NESTING", "Expression", "Want", "compile_expression"]
