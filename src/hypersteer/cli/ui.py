"""`hypersteer ui`: the server of `hypersteer serve`, with its page opened in a browser."""

import threading
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from tyro.conf import arg

from hypersteer.cli.options import Flag, Loading, parse
from hypersteer.cli.serve import start
from hypersteer.config.serving import ServeConfig

ANYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
"""Addresses to listen at that no browser can go to, and where this machine's own goes instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ui:
    """Open a page to steer in: unsteered, prompted and steered answers side by side.

    It is the page of `hypersteer serve`, which runs as well, with the same options; the page tells
    each steered token's shift, sweeps strengths, saves edits, and writes the code. Ctrl-C ends it.

    Examples:
      hypersteer ui
      hypersteer ui --model pirate=runs/demo --port 9000 --no-browser
    """

    no_browser: Flag = False
    """Only print the page's address."""
    config: Annotated[ServeConfig, arg(name="")] = field(default_factory=ServeConfig)
    loading: Annotated[Loading, arg(name="")] = field(default_factory=Loading)


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    args = parse(Ui, argv, "ui")

    def ready(address: str) -> None:
        page = f"{_reachable(address)}/ui/"
        print(f"{page} is the page, Ctrl-C ends it", flush=True)
        if not args.no_browser:
            # In a thread of its own: a text browser would hold the server up.
            threading.Thread(target=webbrowser.open, args=(page,), daemon=True).start()

    start(args.config, args.loading, ready, "the page")


def _reachable(address: str) -> str:
    """Return an address that a browser on this machine can go to."""
    for anywhere, here in ANYWHERE.items():
        address = address.replace(f"//{anywhere}:", f"//{here}:")
    return address
