"""What a hypernetwork's edits are like: figures, the numbers behind them, one report."""
