"""Learn a hypernetwork: losses, one step, validation, the loop."""
