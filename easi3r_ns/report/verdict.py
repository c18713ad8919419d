"""Is a dataset worth training on? The rules applied to what was measured; the worst finding decides."""

from __future__ import annotations

from dataclasses import dataclass

from .measures import Measures
from .rules import RULES, Level, Rule
from .words import or_not_measured


@dataclass(frozen=True)
class Finding:
    """One rule applied to one scene."""

    rule: Rule
    value: float | None
    """The measure; None where it was not measured."""
    level: Level

    @property
    def shown(self) -> str:
        """The value with its unit, or 'not measured'; one that only rounds to a limit is told apart from it."""
        shown = or_not_measured(self.value, self.rule.show)
        crossed = self.rule.care if self.level is Level.CARE else self.rule.stop
        if self.level > Level.TRAIN and crossed is not None and shown == self.rule.show(crossed):
            return f"just {'below' if self.rule.fine == 'at least' else 'above'} {shown}"
        return shown

    @property
    def reason(self) -> str:
        """The rule's reason with the value filled in."""
        return self.rule.reason.format(value=self.shown)


@dataclass(frozen=True)
class Verdict:
    """All findings of a scene."""

    findings: tuple[Finding, ...]

    @property
    def level(self) -> Level:
        """The worst level of any finding."""
        return max((finding.level for finding in self.findings), default=Level.TRAIN)

    @property
    def against(self) -> tuple[Finding, ...]:
        """The findings that speak against training, worst first."""
        return tuple(sorted((f for f in self.findings if f.level > Level.TRAIN), key=lambda f: -f.level))

    @property
    def decisive(self) -> tuple[Finding, ...]:
        """The measures that matter most, where they were measured."""
        return tuple(f for f in self.findings if f.rule.decisive and f.value is not None)

    @property
    def summary(self) -> str:
        """One sentence."""
        count = len(self.against)
        things = "one thing" if count == 1 else f"{count} things"
        return (
            "Nothing that can be checked without training speaks against it.",
            f"It will train, but look at {things} first.",
            "Training on this would most likely waste your time.",
        )[self.level]


def judge(measures: Measures) -> Verdict:
    """Apply every rule of :data:`easi3r_ns.report.rules.RULES` to the measures of a scene."""
    findings = []
    for rule in RULES:
        value = getattr(measures, rule.key)
        value = None if value is None else float(value)
        findings.append(Finding(rule, value, rule.level(value)))
    return Verdict(tuple(findings))
