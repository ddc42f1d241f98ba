"""What is found of a cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fmshards.model import Cut
from fmshards.planning.moves import Moves
from fmshards.planning.search import Found, Trial
from fmshards.planning.worth import Worth


@dataclass(frozen=True)
class CutReport:
    """What a survey has found of a cut. photos: that it was judged on. told: whether the sample tells the drop apart
    from the budget; needed: how many photos would, where it does not."""

    cut: Cut
    photos: int
    found: Found
    moves: Moves | None
    mirror: str
    worth: Worth | None
    told: bool
    needed: int | None

    @property
    def chosen(self) -> Trial | None:
        """The rate within the budget."""
        return self.found.chosen

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        moves = self.moves
        return {
            "cut": self.cut.name,
            "shape": list(self.cut.shape),
            "flops_before": self.cut.flops_before,
            "flops_after": self.cut.flops_after,
            "photos": self.photos,
            "chosen": self.chosen and self.chosen.rate,
            "mirror": self.mirror,
            "told": self.told,
            "photos_needed": self.needed,
            "worth": self.worth and self.worth.to_json(),
            "trials": [trial.to_json() for trial in self.found.trials],
            "flips": moves and {way: moved.to_json() for way, moved in moves.flips.items()},
            "moves": moves and [moved.to_json() for moved in moves.others],
        }
