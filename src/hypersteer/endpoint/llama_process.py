"""The process of a local engine: llama.cpp's own server, on a free port of the loopback.

It is started by `hypersteer.endpoint.local_server` and lives as long as its standard input is open,
so it ends with whoever started it, also after a kill. The first line that it reads is its settings
as JSON; the only line that it writes is where it listens. What llama.cpp says goes to standard
error.
"""

import json
import os
import sys
from typing import Any

LOOPBACK = "127.0.0.1"
ERRORS_ONLY = 1


def main() -> None:
    """Serve until the standard input ends."""
    settings = json.loads(sys.stdin.readline())
    import xllamacpp

    engine: Any = xllamacpp  # a compiled module, of which type checkers see nothing
    params = engine.CommonParams()
    params.model.path = settings["model"]
    params.hostnames = [LOOPBACK]
    params.port = 0  # the system chooses one that is free
    params.api_keys = [settings["key"]]
    params.n_parallel = settings["parallel"]
    params.n_ctx = settings["parallel"] * settings["context"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
    # What a slot holds is enough: copies of earlier requests would grow to 8 GiB.
    params.cache_ram_mib = 0
    params.cache_idle_slots = False
    params.ui = False
    params.verbosity = ERRORS_ONLY
    server = engine.Server(params)
    sys.stdout.write(json.dumps({"url": server.listening_address}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)  # its own end waits for threads, and there is nothing to keep


if __name__ == "__main__":
    main()
