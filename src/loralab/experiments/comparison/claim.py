"""What the paper says, and whether it held in a comparison."""

from dataclasses import dataclass

NOT_TESTED = "not tested in this comparison: "


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim of the paper, judged."""

    name: str
    claim: str
    held: bool | None
    """None: not tested in this comparison; `found` says why."""
    found: str
    """What was measured, with its figures."""
    paper: str
    """The paper's own figures."""

    @property
    def verdict(self) -> str:
        """For people."""
        return {True: "held", False: "did not hold", None: "not tested"}[self.held]
