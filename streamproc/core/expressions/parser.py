"""From text to a sqlglot tree: a small dialect, bounds before parsing, and the place of every node."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from sqlglot import exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import ParseError, SqlglotError, TokenError
from sqlglot.parser import Parser
from sqlglot.tokenizer_core import Token, TokenType
from sqlglot.tokens import Tokenizer

from streamproc.errors import ExpressionError

MAX_CHARACTERS = 10_000
# sqlglot needs about 22 Python frames a level and Python allows 1,000 in all: 20 levels parse wherever the
# caller stands. A chain (a + b + c, a AND b AND c) is one level.
MAX_NESTING = 20
SEE_DOCS = "docs/expressions.md lists what can be written"
NO_TABLES = "write only the condition or value; a look-up feature brings in data from elsewhere"
SPLIT_IT = "split it into features: an expression can use the features before it"

_OPENING = {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE, TokenType.CASE}
_CLOSING = {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE, TokenType.END}
_PREFIX = {TokenType.NOT, TokenType.DASH, TokenType.PLUS, TokenType.TILDE}


class _SyntaxFaultError(ParseError):
    """What sqlglot could not read, and where. A ParseError, because sqlglot backtracks on those."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message, [{}])  # sqlglot writes into the first of the errors
        self.offset = offset


def _placed(parse: Callable[[Any], exp.Expr | None], back: int, parser: Any) -> exp.Expr | None:
    """What ``parse`` reads, with the place of its keyword ``back`` tokens ago; sqlglot does not keep it."""
    keyword = parser._tokens[parser._index - back]
    node = parse(parser)
    if node is not None:
        node.update_positions(keyword)
    return node


class _Parser(Parser):
    """Every function call stays a call by the name that was written: our table says which exist."""

    FUNCTIONS: ClassVar[dict[str, Callable[..., Any]]] = {}
    FUNCTION_PARSERS: ClassVar[dict[str, Callable[..., Any]]] = {
        name: partial(_placed, Parser.FUNCTION_PARSERS[name], 2) for name in ("CAST", "TRY_CAST", "EXTRACT")
    }
    NO_PAREN_FUNCTION_PARSERS: ClassVar[dict[str, Callable[..., Any]]] = {
        name: partial(_placed, Parser.NO_PAREN_FUNCTION_PARSERS[name], 1) for name in ("CASE", "IF")
    }
    UNARY_PARSERS: ClassVar[dict[TokenType, Callable[..., Any]]] = {
        **Parser.UNARY_PARSERS,
        TokenType.NOT: partial(_placed, Parser.UNARY_PARSERS[TokenType.NOT], 1),
        TokenType.DASH: partial(_placed, Parser.UNARY_PARSERS[TokenType.DASH], 1),
    }
    PRIMARY_PARSERS: ClassVar[dict[TokenType, Callable[..., Any]]] = {
        **Parser.PRIMARY_PARSERS,
        TokenType.NULL: lambda self, token: self.expression(exp.Null(), token),
        TokenType.TRUE: lambda self, token: self.expression(exp.Boolean(this=True), token),
        TokenType.FALSE: lambda self, token: self.expression(exp.Boolean(this=False), token),
    }

    STATEMENT_PARSERS: ClassVar[dict[TokenType, Callable[..., Any]]] = {}  # "comment" is a name, not a statement

    def raise_error(self, message: str, token: Token | None = None) -> None:
        at = token or self._curr or self._prev
        if not self._curr:
            raise _SyntaxFaultError("the expression ends too early", len(self.sql.rstrip()))
        if message.startswith("Expect"):
            raise _SyntaxFaultError(f"{message[0].lower()}{message[1:]}, found {self._curr.text!r}", self._curr.start)
        raise _SyntaxFaultError(f"{at.text!r} was not expected here", at.start)


class _Tokenizer(Tokenizer):
    """Without the words that swallow the rest of the text, such as SHOW and CALL."""

    COMMANDS: ClassVar[set[TokenType]] = set()


class StreamprocSql(Dialect):
    """sqlglot's neutral SQL without its functions and statements."""

    class Tokenizer(_Tokenizer):
        pass

    Parser = _Parser


def parse(text: str) -> exp.Expr:
    """The tree of one expression.

    Raises ExpressionError: empty, too long, too deep, several statements, or not SQL.
    """
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(
            f"the expression has {len(text):,} characters, more than {MAX_CHARACTERS:,}",
            SPLIT_IT,
            MAX_CHARACTERS,
        )
    dialect = StreamprocSql()
    try:
        tokens = dialect.tokenize(text)
    except TokenError:
        raise _unfinished(text) from None
    if not tokens:
        raise ExpressionError("the expression is empty", "write a condition or a value, such as amount > 100")
    _check_nesting(tokens)
    for token in tokens:
        if token.token_type is TokenType.SEMICOLON:
            raise ExpressionError("one expression, without semicolons", "remove the ;", token.start)
        if token.token_type is TokenType.SELECT:
            raise ExpressionError("SELECT is not allowed: an expression has no tables", NO_TABLES, token.start)
    try:
        (tree,) = dialect.parser().parse(tokens, text)
    except _SyntaxFaultError as fault:
        word = re.match(r"[A-Za-z_]+", text[fault.offset :])
        hint = f'{SEE_DOCS}; a column of that name is written "{word[0]}"' if word else SEE_DOCS
        raise ExpressionError(f"not valid SQL: {fault}", hint, fault.offset) from None
    except (SqlglotError, ValueError, TypeError, AttributeError, LookupError) as error:
        first = str(error).split("\n", 1)[0]  # sqlglot's own slips on odd input
        raise ExpressionError(f"not valid SQL: {first}", SEE_DOCS) from None
    except RecursionError:
        raise ExpressionError("the expression is nested too deeply", SPLIT_IT) from None
    if not isinstance(tree, exp.Expr):
        raise ExpressionError("not valid SQL", SEE_DOCS)
    return tree


def start(node: exp.Expr) -> int | None:
    """Index in the text of the node's first character, where sqlglot kept it."""
    found = node.meta.get("start") if node._meta else None
    return None if found is None else int(found)


def place(node: exp.Expr) -> int:
    """Index in the text of the first character known to belong to the node."""
    found = start(node)
    if found is not None:
        return found
    return min((s for n in node.walk() if (s := start(n)) is not None), default=0)


def _check_nesting(tokens: list[Token]) -> None:
    """Raises ExpressionError where brackets, CASE and prefix operators stand too deep inside one another."""
    levels: list[int] = []
    prefixes = 0
    for token in tokens:
        kind = token.token_type
        prefixes = prefixes + 1 if kind in _PREFIX else prefixes
        if kind in _OPENING:
            levels.append(1 + prefixes)
        elif kind in _CLOSING and levels:
            levels.pop()
        if sum(levels) + prefixes > MAX_NESTING:
            raise ExpressionError(f"nested more than {MAX_NESTING} levels deep", SPLIT_IT, token.start)
        if kind not in _PREFIX:
            prefixes = 0


def _unfinished(text: str) -> ExpressionError:
    """The error for text that is not made of tokens: a quote or comment that never ends."""
    i = 0
    while i < len(text):
        opened = next((mark for mark in ("'", '"', "/*", "--") if text.startswith(mark, i)), None)
        if opened is None:
            i += 1
            continue
        closing = {"/*": "*/", "--": "\n"}.get(opened, opened)
        end = text.find(closing, i + len(opened))
        if end < 0 and opened != "--":
            what = "comment" if opened == "/*" else "quote"
            return ExpressionError(f"a {what} that never ends: {opened}", f"close it with {closing}", i)
        i = len(text) if end < 0 else end + len(closing)
    return ExpressionError("not valid SQL", SEE_DOCS)
