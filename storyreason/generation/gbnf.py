"""Writes grammars in GBNF as xgrammar reads it: an EBNF with character classes: "text", [a-z], (a | b), a?, a{1,3}.

Source: https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass
class Grammar:
    """Collects the rules of a grammar."""

    names: dict[str, str] = field(default_factory=dict)
    """The name of each rule by its body."""

    def rule(self, body: str) -> str:
        """The name of the rule with this body. Equal bodies share one rule, which keeps grammars small."""
        return self.names.setdefault(body, f"r{len(self.names)}")

    def text(self, root: str) -> str:
        """The whole grammar, one rule per line."""
        return "\n".join([f"root ::= {root}", *(f"{name} ::= {body}" for body, name in self.names.items())]) + "\n"


def literal(text: str) -> str:
    """A quoted terminal."""
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(letter: str) -> str:
    if letter in '"\\':
        return "\\" + letter
    return letter if letter.isprintable() else f"\\U{ord(letter):08x}"


def choice(texts: Iterable[str]) -> str:
    """One of several texts, each once."""
    return " | ".join(literal(text) for text in dict.fromkeys(texts))


def joined(blocks: Sequence[str]) -> str:
    """Blocks separated by blank lines."""
    return ' "\\n\\n" '.join(blocks)


def characters(numbers: Iterable[int]) -> str:
    """The inside of a character class: ranges of these code points, letters all."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return "".join(chr(low) if low == high else f"{chr(low)}-{chr(high)}" for low, high in ranges)
