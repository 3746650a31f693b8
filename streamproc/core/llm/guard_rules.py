"""What texts say that want to be instructions. The patterns are for folded text: small letters, single spaces."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_ALL: Final = r"(?:(?:all|any|each|every|the|of|these|those|your|my|our|other|and|or) )*"
_BEFORE: Final = r"(?:previous|prior|preceding|above|earlier|former|initial|original|foregoing|existing|system|safety)"
_ORDERS: Final = (
    r"(?:instructions?|prompts?|rules?|directions?|directives?|guidelines?|orders?|commands?|context|programming|"
    r"restrictions?|constraints?|polic(?:y|ies))"
)
_DROPPED: Final = (
    "ignore",
    "disregard",
    "forget",
    "override",
    "bypass",
    "neglect",
    "discard",
    "overlook",
    "skip",
    "drop",
    "violate",
    "dismiss",
)
_DROP: Final = f"(?:{'|'.join(_DROPPED)})"


@dataclass(frozen=True, slots=True)
class Rule:
    """What a ``pattern`` in a folded text says. One of the ``words`` is in each text that it is found in: most texts
    have none of them, and need no search."""

    pattern: re.Pattern[str]
    weight: float
    words: tuple[str, ...]

    def says(self, text: str) -> float:
        return self.weight if any(word in text for word in self.words) and self.pattern.search(text) else 0.0


RULES: Final = tuple(
    Rule(re.compile(pattern), weight, words)
    for pattern, weight, words in (
        (rf"\b{_DROP} {_ALL}(?:{_BEFORE} )+{_ALL}{_ORDERS}\b", 0.9, _DROPPED),
        (
            rf"\b(?:ignore|disregard|override|bypass) (?:all|any) (?:\w+ )?{_ORDERS}\b",
            0.8,
            ("ignore", "disregard", "override", "bypass"),
        ),
        (rf"\b{_DROP} {_ALL}(?:your|you were given|you have) (?:\w+ ){{0,3}}{_ORDERS}\b", 0.9, _DROPPED),
        (
            rf"\b{_DROP} (?:everything|anything|all|what) (?:\w+ ){{0,3}}(?:above|before|told|said|so far)\b",
            0.9,
            _DROPPED,
        ),
        (
            r"\byou are (?:now |no longer )(?:a |an |in |the )?(?:\w+ ){0,3}(?:mode|assistant|ai|bot|model|dan)\b",
            0.8,
            ("you are",),
        ),
        (
            r"\b(?:reveal|print|show|repeat|output|display|tell me|give me|leak|dump|quote|translate) (?:\w+ ){0,4}"
            r"(?:system|hidden|initial|secret|original|developer) (?:prompt|instructions?|message|rules)\b",
            0.9,
            ("system", "hidden", "initial", "secret", "original", "developer"),
        ),
        (
            r"\bwhat (?:is|are|was|were) your (?:\w+ ){0,2}(?:prompt|instructions|system message)\b",
            0.75,
            ("what is", "what are", "what was", "what were"),
        ),
        (
            r"\b(?:pretend|act|behave|respond|answer) as (?:if|though) (?:\w+ ){0,4}(?:no |without )"
            r"(?:\w+ ){0,2}(?:rules|restrictions|limits|filters?|guidelines)\b",
            0.85,
            ("as if", "as though"),
        ),
        (
            r"\b(?:jailbreak|jailbroken|do anything now|developer mode|god mode|dan mode)\b",
            0.75,
            ("jailbr", "do anything now", "r mode", "d mode", "n mode"),
        ),
        (
            r"\bnew (?:system )?(?:instructions?|rules|directives?) ?(?:are|follow|for you|from now)\b",
            0.75,
            ("new system", "new instr", "new rules", "new direc"),
        ),
        (
            r"\b(?:classify|mark|label|score|rate|treat|approve|set) (?:this|it|the) (?:\w+ ){0,3}(?:as|to|with|at) "
            r"(?:\w+ ){0,3}(?:regardless|no matter|whatever|always|and nothing else)\b",
            0.8,
            ("regardless", "no matter", "whatever", "always", "and nothing else"),
        ),
        (
            r"\b(?:respond|answer|reply|output) (?:only )?with (?:the )?(?:following|exactly|json)\b",
            0.5,
            ("following", "exactly", "json"),
        ),
        (
            r"\b(?:ai|assistant|model|llm|chatbot|gpt|claude) (?:you )?(?:must|should|shall|has to|need to|will) "
            r"(?:now )?(?:approve|score|set|output|respond|return|classify|answer|ignore|send|call)\b",
            0.8,
            ("ai ", "assistant", "model", "llm", "chatbot", "gpt", "claude"),
        ),
        (
            r"\bignor(?:iere|ieren sie|a|ez?|e as|e todas)? (?:\w+ ){0,4}(?:anweisungen|instrucciones|instructions "
            r"(?:precedentes|anterieures)|istruzioni|instrucoes|vorgaben)\b",
            0.9,
            ("ignor",),
        ),
        (r"(?:игнорируй|забудь) (?:\w+ ){0,3}(?:инструкции|указания|правила)", 0.9, ("игнорируй", "забудь")),
        (r"(?:忽略|无视|忘记).{0,8}(?:指令|指示|提示|规则)", 0.9, ("忽略", "无视", "忘记")),
        (r"(?:以前|上記|これまで|前).{0,6}(?:指示|命令|プロンプト).{0,4}(?:無視|忘れ)", 0.9, ("無視", "忘れ")),
    )
)
"""Patterns for a folded text, with what each says."""
