"""`python -m hypersteer`, which is also what `accelerate launch -m hypersteer` runs."""

from hypersteer.cli.main import run

if __name__ == "__main__":
    run()
