"""The work of an evaluation that processes share: learn, answer, judge; resumable at any moment."""

from collections.abc import Sequence

from rich.console import Console

from hypersteer.config import EvaluateConfig
from hypersteer.edits.sites import Site
from hypersteer.evaluation.answers import Prepared, answer, batches, by_concept
from hypersteer.evaluation.parts import slug
from hypersteer.evaluation.protocol import Plan, Question
from hypersteer.evaluation.records import Held, Judged
from hypersteer.evaluation.scoring import judge_rows
from hypersteer.evaluation.store import ResultsFolder
from hypersteer.judges.judge import Judge
from hypersteer.launched import rank
from hypersteer.lm.base import BaseLM
from hypersteer.methods.protocol import Learner, can_steer
from hypersteer.methods.registry import UNSTEERED, recipe
from hypersteer.progress import ProgressBar
from hypersteer.sharing import Share

ENGINE = "judge"
"""The seat of the process that judges by an engine of ours, which takes all cores of a machine."""


class Work:
    """Takes method by method through all stages, each of which skips what is finished.

    A unit of work is a method that learns, or a concept whose answers are made, or judged.

    Args:
        config: the settings.
        folder: keeps what is finished.
        share: which part of it is this process's.
        methods: by name, `unsteered` first.
        plan: what is asked.
        lm: the base LM.
        site: where baselines act.
        judge: who judges.
    """

    def __init__(
        self,
        config: EvaluateConfig,
        folder: ResultsFolder,
        share: Share,
        methods: dict[str, Learner],
        plan: Plan,
        lm: BaseLM,
        site: Site,
        judge: Judge,
    ) -> None:
        self.config, self.folder, self.share = config, folder, share
        self.methods, self.plan, self.lm, self.site, self.judge = methods, plan, lm, site, judge
        self.console = Console(stderr=True)
        self.seated = getattr(judge, "runs_engine", False)
        self._judged: set[tuple[str, Held, int]] = set()

    def do(self) -> dict[str, Prepared]:
        """Do what is left of the work, until all of it is done by somebody; return all methods.

        While another process learns a method, this one goes on with the next ones.
        """
        prepared: dict[str, Prepared] = {}
        for wait in (False, True):
            for name in self.methods:
                if name not in prepared and (found := self._prepare(name, wait=wait)):
                    prepared[name] = found
                    self._answer(found)
                    if not self.seated or self.share.seat(ENGINE):
                        self._judge(name)
        for name in self.methods:
            self._judge(name)
        return {name: prepared[name] for name in self.methods}

    def rows(self) -> list[Judged]:
        """Return all answers of all methods, judged."""
        return [
            row
            for name in self.methods
            for part in self._parts(name)
            for row in self.folder.judged(self.judge.name, name, *_place(part)) or []
        ]

    def _prepare(self, name: str, *, wait: bool) -> Prepared | None:
        """Fit a method, or read what it learnt before; None where another process learns it now."""
        method, made_of = self.methods[name], recipe(self.methods[name])
        known = self.plan.examples("held_in")
        if not method.learns:
            known += self.plan.examples("held_out")
        ids = [entry.concept.id for entry in known]
        stage = self.share.stage([name], lambda it: f"learned.{slug(it)}", self.folder.has_learned)
        # What learns nothing is ready at once; the first of them is asked before all others.
        for free in stage.rounds() if wait or not method.learns else [stage.free()]:
            for _ in free:
                with self._bar(f"{name}: learning", 100 if method.learns else 0) as bar:
                    learned = method.fit(
                        self.lm, self.site, known, done=lambda part: bar.advance(100 * part)
                    )
                self.folder.keep_learned(name, made_of, ids, learned)
                stage.release([name])
        found = self.folder.learned(name, made_of, ids)
        return None if found is None else Prepared(name, method, found, self.lm, self.site)

    def _parts(self, name: str) -> list[list[Question]]:
        """Return the questions that a method is asked, concept by concept."""
        if not can_steer(self.methods[name]):
            return []
        learns = self.methods[name].learns
        asked = self.plan.questions.items()
        return [questions for (held, _), questions in asked if held == "held_in" or not learns]

    def _answer(self, prepared: Prepared) -> None:
        """Make all answers of a method that are not there yet."""
        protocol, name = self.config.protocol, prepared.name
        each = len(protocol.strengths) if prepared.scales else 1

        def done(part: Sequence[Question]) -> bool:
            return self.folder.has_answers(name, *_place(part))

        left = [part for part in self._parts(name) if not done(part)]
        stage = self.share.stage(left, lambda part: _unit("answers", name, part), done)
        with self._bar(f"{name}: answers", each * sum(map(len, left))) as bar:
            for free in stage.rounds(lambda part: bar.advance(each * len(part))):
                for batch in batches(free, each, protocol.batch_size):
                    questions = [question for part in batch for question in part]
                    rows = answer(prepared, questions, protocol)
                    for part in by_concept(rows, batch, each):
                        self.folder.keep_answers(part)
                    stage.release(batch)
                    bar.advance(len(rows))

    def _judge(self, name: str) -> None:
        """Judge all answers of a method that are not judged yet."""

        def done(part: Sequence[Question]) -> bool:
            return self._is_judged(name, part)

        left = [part for part in self._parts(name) if not done(part)]
        stage = self.share.stage(left, lambda part: _unit("judged", name, part), done)
        with self._bar(f"{name}: judging", len(left)) as bar:
            for free in stage.rounds(lambda _: bar.advance(1)):
                # Without the seat it waits for who has it, and for the seat, should that one die.
                if self.seated and not self.share.seat(ENGINE):
                    continue
                for part in free:
                    self._judge_part(name, part)
                    stage.release([part])
                    bar.advance(1)

    def _judge_part(self, name: str, part: Sequence[Question]) -> None:
        place = _place(part)
        rows = self.folder.answers(name, *place) or []
        before = self.folder.judged(self.judge.name, name, *place) or []
        plain = self.folder.answers(UNSTEERED, *place) or []
        usual = {row.prompt_id: row.response for row in plain}
        found = judge_rows(self.judge, rows, before, usual)
        self.folder.keep_judged(self.judge.name, found)
        self._judged.add((name, *place))  # what has failed is left to the next run

    def _is_judged(self, name: str, part: Sequence[Question]) -> bool:
        """Return whether nothing is left to judge; what has failed is tried once by all of us."""
        key = (name, *_place(part))
        if key not in self._judged and self.folder.is_judged(
            self.judge.name, *key, since=self.share.began
        ):
            self._judged.add(key)
        return key in self._judged

    def _bar(self, text: str, total: int) -> ProgressBar:
        """Return a progress bar; where there is no terminal, it prints a line at every quarter."""
        return ProgressBar(text, total, console=self.console, quarters=True, active=not rank())


def _place(part: Sequence[Question]) -> tuple[Held, int]:
    return part[0].held, part[0].concept.id


def _unit(stage: str, name: str, part: Sequence[Question]) -> str:
    held, concept_id = _place(part)
    return f"{stage}.{slug(name)}.{held}-{concept_id}"
