"""The report's tables, as text in cells; Markdown and HTML only lay them out."""

import math
from collections.abc import Callable
from statistics import median

from hypersteer.evaluation.records import Held
from hypersteer.report.layout import (
    EMPTY,
    NONE,
    Cell,
    Section,
    Table,
    big_number,
    bounds,
    duration,
    held_name,
    measured,
    number,
    plus,
    published_value,
    share,
    times,
)
from hypersteer.report.measure_tables import measure_cells, measure_columns, measure_note
from hypersteer.report.published import (
    AXBENCH_DETECTION,
    AXBENCH_WIN_RATE,
    HYPERSTEER_TABLE_1,
    SETTING,
    published_name,
)
from hypersteer.report.summary import Scores, Summary


def table_1(summary: Summary) -> Table:
    """Lay out the paper's Table 1: methods against held-out and held-in scores."""
    best = {
        held: max((s.overall.mean for (_, h), s in summary.scores.items() if h == held), default=0)
        for held in summary.held
    }
    rows, named = [], set()
    for method in summary.methods:
        cells = [_overall(summary, method, held, best[held]) for held in summary.held]
        published = HYPERSTEER_TABLE_1.row(method)
        named.add(published_name(method))
        rows.append([Cell(method), *cells, *measure_cells(summary, method), *_published(published)])
    ours = [f"{held_name(held)}, {_concepts(summary.concepts[held])}" for held in summary.held]
    ours += measure_columns(summary)
    others = [
        [Cell(name), *[EMPTY] * len(ours), *_published(values)]
        for name, values in HYPERSTEER_TABLE_1.rows.items()
        if name not in named
    ]
    return Table(
        name="overall",
        caption="Overall score, held out and held in",
        note="Overall score from 0 to 2, the harmonic mean of concept, instruction and fluency, at "
        "the strength chosen per concept on the first half of the prompts, reported on the second "
        "(on all where there is one strength); "
        "under it the 95 % interval over concepts. Bold is the best of this run."
        f"{measure_note(summary)} "
        f"The published columns are another model under another judge ({SETTING}; "
        f"{HYPERSTEER_TABLE_1.source}): compare orders, not values.",
        groups=[("", 1), ("This run", len(ours)), ("Published, Gemma-2", 4)],
        columns=["Method", *ours, *HYPERSTEER_TABLE_1.columns],
        sections=[
            Section("", rows),
            *([Section("Published only, not run here", others)] if others else []),
        ],
        published=1 + len(ours),
    )


def score_table(summary: Summary) -> Table:
    """Lay out the scores behind the overall score, strengths, perplexity and concept gap."""
    return Table(
        name="scores",
        caption="Scores, chosen strengths, perplexity and concept gap",
        note="Scores from 0 to 2 with 95 % intervals over concepts. Strength: median and range of "
        "those chosen. Perplexity: of the answers under the unsteered base LM, exponential of the "
        "mean negative log-likelihood per token. Concept gap: loss under another concept minus "
        "loss under the right one, nats per token.",
        columns=[
            *["Method", "Concept", "Instruction", "Fluency"],
            *["Strength", "Perplexity", "Concept gap"],
        ],
        sections=_by_held(summary, _score_cells),
    )


def comparison_table(summary: Summary) -> Table:
    """Compare with the chosen method, and with the unsteered base LM."""
    rival = summary.findings.compare_to
    return Table(
        name="comparison",
        caption=f"Against {rival}, and against the unsteered model",
        note=f"Difference: overall score minus that of {rival} on the same concepts. Win rate: "
        f"share of concepts with a better score than {rival}, ties half. Side effects: instruction "
        "score minus, and perplexity over, those of the unsteered answers to the same prompts. "
        "In brackets or under the value the 95 % interval over concepts. "
        f"Published win rates are against SAE ({AXBENCH_WIN_RATE.source}), 2B and 9B at layer 20.",
        groups=[("", 1), (f"Against {rival}", 2), ("Side effects", 2), ("Published, Gemma-2", 2)],
        columns=[
            *["Method", "Difference", "Win rate", "Instruction", "Perplexity"],
            *["2B win rate", "9B win rate"],
        ],
        sections=_by_held(summary, _comparison_cells),
        published=5,
    )


def cost_table(summary: Summary) -> Table | None:
    """Lay out what one more concept costs; None if no cost is known."""
    costs = summary.findings.costs
    if not costs:
        return None
    rows = []
    for method in summary.methods:
        cost = costs.get(method)
        cells = [EMPTY] * 3
        if cost is not None:
            cells = [
                Cell(big_number(cost.parameters)),
                Cell(big_number(cost.flops)),
                Cell(duration(cost.seconds)),
            ]
        rows.append([Cell(method), *cells])
    return Table(
        name="cost",
        caption="Cost of steering towards one more concept",
        note="Stored parameters, floating-point operations and wall-clock time of learning "
        "one concept on this machine; 0 where nothing is learnt. k thousand, M million, "
        "G 10^9, T 10^12, P 10^15.",
        columns=["Method", "Parameters", "FLOPs", "Time"],
        sections=[Section("", rows)],
    )


def detection_table(summary: Summary) -> Table | None:
    """Lay out concept detection; None if it was not measured."""
    found = summary.findings.detection
    if not found:
        return None
    sections, ratios = [], sorted({d.ratio for d in found.values()})
    for held in ("held_out", "held_in"):
        rows = []
        for method in dict.fromkeys([*summary.methods, *(method for method, _ in found)]):
            if (values := found.get((method, held))) is None:
                continue
            published = AXBENCH_DETECTION.row(method) or [None] * 5
            rows.append(
                [
                    Cell(method),
                    measured(values.auroc),
                    measured(values.hard_accuracy),
                    measured(values.hard_auroc),
                    measured(values.f1),
                    measured(values.imbalanced_f1, mark="*" if values.repeated else ""),
                    *[Cell(published_value(value)) for value in published[1:3]],
                ]
            )
        if rows:
            sections.append(Section(held_name(held), rows))
    repeated = any(d.repeated for d in found.values())
    star = " * too few other negatives: drawn with replacement." if repeated else ""
    named = " or ".join(f"{ratio}:1" for ratio in ratios)
    return Table(
        name="detection",
        caption="Concept detection",
        note="Means over concepts with 95 % intervals. AUROC: positives against plain negatives. "
        "Hard negatives use the concept's words in another meaning: accuracy is the mean of that "
        "on positives and on hard negatives at Youden's threshold. F1 at its best threshold, "
        f"balanced and with {named} drawn negatives per positive.{star} "
        f"Published AUROC: {AXBENCH_DETECTION.source}.",
        groups=[("", 1), ("", 1), ("Hard negatives", 2), ("F1", 2), ("Published AUROC", 2)],
        columns=[
            *["Method", "AUROC", "Accuracy", "AUROC", "Balanced", named],
            *["2B L20", "9B L20"],
        ],
        sections=sections,
        published=6,
    )


def curve_table(summary: Summary) -> Table | None:
    """Lay out the values behind the strength curves; None if no method has strengths."""
    sections = []
    for method in summary.methods:
        for held in summary.held:
            rows = [
                [
                    Cell(f"{point.strength:g}"),
                    *[Cell(number(v)) for v in (point.overall, point.concept)],
                    *[Cell(number(v)) for v in (point.instruction, point.fluency)],
                    Cell(NONE if point.perplexity is None else number(point.perplexity, 1)),
                ]
                for point in summary.curves.get((method, held), [])
            ]
            if rows:
                sections.append(Section(f"{method}, {held_name(held).lower()}", rows))
    if not sections:
        return None
    return Table(
        name="strengths",
        caption="Means per strength, over all prompts",
        note="All prompts, both halves; means over concepts.",
        columns=["Strength", "Overall", "Concept", "Instruction", "Fluency", "Perplexity"],
        sections=sections,
    )


_Cells = Callable[[Summary, str, Held, Scores], list[Cell]]


def _by_held(summary: Summary, cells: _Cells) -> list[Section]:
    sections = []
    for held in summary.held:
        rows = [
            [Cell(method), *cells(summary, method, held, scores)]
            for method in summary.methods
            if (scores := summary.scores.get((method, held))) is not None
        ]
        heading = f"{held_name(held)}, {_concepts(summary.concepts[held])}"
        sections.append(Section(heading, rows))
    return sections


def _score_cells(summary: Summary, method: str, held: Held, scores: Scores) -> list[Cell]:
    strengths = [c.strength for c in scores.choices if c.strength is not None]
    strength = EMPTY
    if strengths:
        low, high = min(strengths), max(strengths)
        spread = f"({low:g} to {high:g})" if low < high else ""
        strength = Cell(f"{median(strengths):g}", spread)
    gap = summary.findings.gaps.get((method, held))
    return [
        *[measured(interval) for interval in (scores.concept, scores.instruction, scores.fluency)],
        strength,
        measured(scores.perplexity, digits=1),
        EMPTY if gap is None else Cell(plus(gap)),
    ]


def _comparison_cells(summary: Summary, method: str, held: Held, scores: Scores) -> list[Cell]:
    side, wins, difference = scores.side, scores.wins, scores.difference
    published = AXBENCH_WIN_RATE.row(method) if held == "held_in" else None
    rates = (published or [None] * 5)[1:3]
    reference = Cell("reference") if method == summary.findings.compare_to else EMPTY
    return [
        Cell(plus(difference.mean), bounds(difference, plus)) if difference else reference,
        Cell(share(wins.mean), bounds(wins, share)) if wins else reference,
        Cell(plus(side.instruction.mean), bounds(side.instruction, plus)) if side else EMPTY,
        times(side.perplexity) if side else EMPTY,
        *[Cell(NONE if rate is None else f"{rate} %") for rate in rates],
    ]


def _overall(summary: Summary, method: str, held: Held, best: float) -> Cell:
    scores = summary.scores.get((method, held))
    if scores is None:
        return EMPTY
    cell = measured(scores.overall)
    total = summary.concepts[held]
    if scores.overall.count < total:
        detail = f"{cell.detail} {scores.overall.count} of {total} concepts".strip()
        cell = cell._replace(detail=detail)
    return cell._replace(best=math.isclose(scores.overall.mean, best))


def _published(values: tuple | None) -> list[Cell]:
    return [Cell(published_value(value)) for value in values or [None] * 4]


def _concepts(count: int) -> str:
    return f"{count} concept{'' if count == 1 else 's'}"
