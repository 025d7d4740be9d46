"""Check the bundled concept data; print a table and a Markdown section; exit 1 if a check fails.

    python experiments/check_bundled.py --quick                          # no model, seconds
    python experiments/check_bundled.py --dtype bfloat16 --out section.md

Without `--quick` the likelihood judge also reads a sample: for each concept some of its own answers
and as many that other concepts gave to the same instructions. The AUROC of its concept score is
reported, and fails nothing: what the judge cannot see may still be there.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bundled_checks import CHECKS, Check, read

from hypersteer.data.locate import locate


def section(done: Sequence[Check]) -> list[str]:
    """The checks as Markdown: a table, then the faults and notes."""
    table = ["| check | found | holds |", "|---|---|---|"]
    table += [f"| {c.name} | {c.found} | {'**no**' if c.faults else 'yes'} |" for c in done]
    told = [f"- {c.name}, **fault**: {fault}" for c in done for fault in c.faults]
    told += [f"- {c.name}: {note}" for c in done for note in c.notes]
    return [*table, "", *told]


def main() -> int:
    """Check, print, and say by the exit code whether all holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="another set in the same form")
    parser.add_argument("--quick", action="store_true", help="leave the judge out")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--own", type=int, default=4, help="own answers that the judge reads")
    parser.add_argument("--others", type=int, default=4, help="other concepts' answers")
    parser.add_argument("--out", type=Path, help="write the Markdown here too")
    args = parser.parse_args()
    bundle = read(args.folder or locate("bundled", "train").files[0].parent)
    done = [check(bundle) for check in CHECKS]
    lines = section(done)
    if not args.quick:
        # Slow to import, and the quick checks need no model.
        from bundled_seen import seen

        lines += ["", *seen(bundle, args.dtype, args.own, args.others)]
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(any(check.faults for check in done))


if __name__ == "__main__":
    sys.exit(main())
