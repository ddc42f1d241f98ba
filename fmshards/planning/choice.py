"""Which cuts are looked at where nobody names them, which are proposed, and what a person should know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fmshards.augment import Crop, Recipe, parse_recipe
from fmshards.model import Cut
from fmshards.planning.moves import NONE, STORED, WAYS, Moved
from fmshards.planning.survey import Budget, CutReport
from fmshards.units import bytes_text

_EARLIEST, _BINS = 0.15, 4  # of the network's FLOPs; a cut of each bin is looked at


def sensible(cuts: Sequence[Cut]) -> list[Cut]:
    """Up to four of a model's cuts, in its order: of each quarter of the FLOPs after the first 15% the smallest.

    Cuts that `cuts` warns of are left out, unless there are no others.
    """
    usable = [cut for cut in cuts if cut.problem is None and cut.flops_before]
    plain = [cut for cut in usable if cut.module is not None and not cut.warnings] or usable
    bins: dict[int, Cut] = {}
    for cut in plain:
        share = cut.flops_before / max(1, cut.flops_before + cut.flops_after)
        where = int(min(_BINS * max(share - _EARLIEST, 0) / (1 - _EARLIEST), _BINS - 1))
        known = bins.get(where)
        if known is None or (cut.bytes, -cut.place) < (known.bytes, -known.place):
            bins[where] = cut
    return sorted(bins.values(), key=lambda cut: cut.place)


def choose(reports: Sequence[CutReport], named: bool) -> list[CutReport]:
    """The cuts that are proposed: those that were named, where a rate is within the budget; else one of them.

    One: the deepest whose rows take no more bytes than the images, the mirror's with them; else of the fewest bytes.
    Seconds take no part, which differ from run to run.
    """
    fitting = [report for report in reports if report.worth is not None]
    if named or not fitting:
        return fitting
    small = [report for report in fitting if report.worth is not None and (report.worth.of_photo or 0) <= 1]
    if small:
        return [max(small, key=lambda report: report.cut.flops_before)]
    return [min(fitting, key=lambda report: report.worth.bytes if report.worth else 0)]


def mirror_of(reports: Sequence[CutReport]) -> str:
    """One mirror for all layers of a set: the way that stores and computes most of those that they need."""
    ways = [report.mirror for report in reports]
    known = [way.text for way in (NONE, *WAYS, STORED)]
    return max(ways, key=lambda way: known.index(way) if way in known else len(known))


def recipe_of(recipe: Recipe, reports: Sequence[CutReport]) -> Recipe:
    """The recipe, its crop by whole cells where moving by pixels is worse than not moving and whole cells are not."""
    for report in reports:
        crops = [(m, parse_recipe(m.what).terms[0]) for m in (report.moves.others if report.moves else ())]
        asked = [m for m, term in crops if isinstance(term, Crop) and term in recipe.terms]
        whole = [(m, term) for m, term in crops if isinstance(term, Crop) and term not in recipe.terms]
        if asked and whole and asked[0].worse_than_still and not whole[0][0].worse_than_still:
            return replace(recipe, terms=tuple(whole[0][1] if isinstance(t, Crop) else t for t in recipe.terms))
    return recipe


def notes_of(
    reports: Sequence[CutReport], chosen: Sequence[CutReport], budget: Budget, recipe: Recipe, proposed: Recipe
) -> list[str]:
    """What a person should know, the weightiest first."""
    notes: list[str] = []
    for report in reports:
        if report.chosen is None:
            notes.append(_missed(report, budget))
    for report in chosen:
        notes += _of(report, budget)
    if proposed != recipe:
        notes.append(f"recipe {proposed} in place of {recipe}: moves by pixels are worse than none, by whole cells not")
    kept = set(proposed.terms)
    for report in chosen:
        for moved in report.moves.others if report.moves else ():
            if moved.worse_than_still and set(parse_recipe(moved.what).terms) <= kept:
                notes.append(
                    f"{report.cut.name}: {moved.what} is worse than not moving ({_beside(moved)}): leave it out"
                )
    return notes


def _missed(report: CutReport, budget: Budget) -> str:
    nearest = min(report.found.trials, key=lambda trial: trial.outcome.drop.value, default=None)
    if nearest is None:
        return f"{report.cut.name}: no rate takes as few bytes as {bytes_text(budget.bytes or 0)}"
    return (
        f"{report.cut.name}: no rate is within the budget; the nearest, {nearest.rate}, drops "
        f"{nearest.outcome.drop.percent()} at {bytes_text(nearest.bytes)}"
    )


def _of(report: CutReport, budget: Budget) -> list[str]:
    notes = []
    trial, worth = report.chosen, report.worth
    assert trial is not None
    assert worth is not None
    if not report.told and report.needed is not None and budget.drop is not None:
        notes.append(
            f"{report.cut.name}: {report.photos} photos do not tell a drop of {trial.outcome.drop.percent()} from the "
            f"budget of {100 * budget.drop:g}%; about {float(f'{report.needed:.2g}'):,.0f} would (--samples)"
        )
    if worth.pays_after is None or worth.why.count(";"):
        notes.append(f"{report.cut.name}: {worth.why}")
    moved = report.moves.flips.get(report.mirror) if report.moves else None
    if moved is not None and moved.outcome is not None:
        cost = ""
        if moved.multiplications:
            whole = report.cut.flops_before + report.cut.flops_after
            share = 2 * moved.multiplications / max(whole, 1)
            cost = f"; {moved.multiplications:,} multiplications a sample, {share:.0%} of the network's"
        notes.append(
            f"{report.cut.name}: mirror {report.mirror} drops {moved.outcome.drop.percent()} beside the stored "
            f"one{cost}"
        )
    return notes


def _beside(moved: Moved) -> str:
    assert moved.outcome is not None
    assert moved.still is not None
    return f"agreement {moved.outcome.agreement.percent()}, unmoved {moved.still.agreement.percent()}"
