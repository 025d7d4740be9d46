"""`hypersteer analyze`: figures on a checkpoint's edits, the numbers behind them, one report."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from tyro.conf import Positional, arg

from hypersteer.cli.composition import main as compose
from hypersteer.cli.options import BUNDLED, Loading, missing_extra, parse
from hypersteer.cli.sweeps import main as sweep
from hypersteer.config.analysis import PARTS, AnalysisConfig
from hypersteer.errors import ConfigError, nearest

ALL = "all"
COMPOSITION = "composition"
"""A part that takes several checkpoints."""
SWEEPS = ("scaling", "ablations")
"""Parts that train runs of their own, and take a file of settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Analyze:
    r"""Look at a checkpoint's edits: their geometry, attention, words and effect, in one report.

    Parts: geometry (do edits cluster by concept), attention (what the hypernetwork reads),
    perplexity (how likely the answers to learn from are), lens (words that an edit raises, training
    concepts near it), effect (divergence by token and by strength), or all. Three parts have
    options of their own: composition, which takes several checkpoints, and scaling and ablations,
    which train runs and take a file (hypersteer analyze scaling --help).

    Examples:
      hypersteer analyze
      hypersteer analyze geometry runs/demo --against bundled --concepts 10 --prompts 25
      hypersteer analyze effect bundled --steer "talk like a pirate" "mention coffee" --out figures
    """

    words: Annotated[
        tuple[str, ...], Positional, arg(metavar="[PART] [CHECKPOINT]", help_behavior_hint="")
    ] = ()
    """A part, by default all; and a checkpoint: a folder, a Hub id, or bundled, the default."""
    config: Annotated[AnalysisConfig, arg(name="")] = field(default_factory=AnalysisConfig)
    loading: Annotated[Loading, arg(name="")] = field(default_factory=Loading)


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    if argv and argv[0] in SWEEPS:
        sweep(argv[0], argv[1:])
        return
    if argv[:1] == [COMPOSITION]:
        compose(argv[1:])
        return
    args = parse(Analyze, argv, "analyze")
    part, checkpoint = _asked(args.words)
    try:
        from hypersteer.analysis.run import BaseLMChoice, analyze
    except ImportError as error:
        raise missing_extra("the analysis", "analysis", error) from error
    loading = args.loading
    base_lm = BaseLMChoice(loading.lm, loading.device, loading.dtype)
    done = analyze(checkpoint, part, args.config, base_lm)
    for name, finding in done.findings.items():
        print(f"{name}: {finding}")
    print(f"report: {done.report}, beside {len(done.files)} files of figures and numbers")


def _asked(words: Sequence[str]) -> tuple[str, str]:
    """Return the part and the checkpoint that the words name.

    Raises:
        ConfigError: for more than two words, or a first of two that is no part.
    """
    known = [ALL, *PARTS]
    if len(words) > 2:
        raise ConfigError(f"unexpected argument '{words[2]}'; give a part and a checkpoint")
    if len(words) == 2:
        if words[0] not in known:
            raise ConfigError(f"unknown part '{words[0]}'{nearest(words[0], known)}")
        return words[0], words[1]
    if not words:
        return ALL, BUNDLED
    return (words[0], BUNDLED) if words[0] in known else (ALL, words[0])
