"""What Inspect loads from the entry point of the group `inspect_ai`: the provider's name."""

from inspect_ai.model import ModelAPI, modelapi


@modelapi(name="hypersteer")
def hypersteer() -> type[ModelAPI]:
    """Return the provider `hypersteer/CHECKPOINT`; nothing heavy is loaded before it is asked."""
    from hypersteer.harnesses.inspect_model import SteeredAPI

    return SteeredAPI
