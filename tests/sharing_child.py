"""Units of work that processes share, in a process: `python sharing_child.py FOLDER NAME [HANG]`.

Each of 30 units waits a moment and then is a file. What is done, by whom, is a line of `log`. The
process begins when there is no file `wait-NAME`, and stops for good in its unit HANG, and says so.
"""

import os
import sys
import time
from pathlib import Path

from hypersteer.sharing import Share

UNITS = [f"unit-{number}" for number in range(30)]


def main(folder: Path, name: str, hang: int = -1) -> None:
    done, count = folder / "done", 0
    done.mkdir(exist_ok=True)
    with Share(folder, "work") as share:
        print("joined", flush=True)
        while (folder / f"wait-{name}").exists():
            time.sleep(0.01)
        stage = share.stage(UNITS, str, lambda unit: (done / unit).exists())
        for free in stage.rounds():
            for unit in free:
                log(folder, f"{name} {unit}")
                if count == hang:
                    print("hanging", flush=True)
                    time.sleep(600)
                time.sleep(0.01)
                (done / unit).touch()
                stage.release([unit])
                count += 1

        def finish() -> dict[str, str]:
            log(folder, f"{name} finish")
            if hang == len(UNITS):
                print("hanging", flush=True)
                time.sleep(600)
            return {"by": name}

        print(share.finish(finish)["by"], flush=True)


def log(folder: Path, line: str) -> None:
    """Append a line, whole."""
    file = os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{line}\n".encode())
    os.close(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
