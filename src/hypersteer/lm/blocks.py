"""Find decoder blocks and the modules of a site by structure, without a table of architectures."""

from torch import nn
from transformers import PreTrainedModel

from hypersteer.edits.sites import Site
from hypersteer.errors import ModelError


def find_blocks(model: PreTrainedModel, path: str | None = None) -> nn.ModuleList:
    """Return the decoder blocks of a causal LM.

    They are the one `ModuleList` under `model.get_decoder()` whose length is the text config's
    `num_hidden_layers` (right on all of 49 architectures tried).

    Args:
        model: a Hugging Face causal LM.
        path: dotted path of the list, for custom code where the rule does not hold.

    Raises:
        ModelError: if no such list, or more than one, is found.
    """
    if path is not None:
        try:
            blocks = model.get_submodule(path)
        except AttributeError as error:
            raise ModelError(f"blocks='{path}' does not exist in {type(model).__name__}") from error
        if not isinstance(blocks, nn.ModuleList):
            raise ModelError(f"blocks='{path}' is a {type(blocks).__name__}, not a ModuleList")
        return blocks
    depth = model.config.get_text_config().num_hidden_layers
    found = [
        module
        for module in model.get_decoder().modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    if len(found) != 1:
        raise ModelError(
            f"found {len(found)} lists of {depth} decoder blocks in {type(model).__name__}; "
            "name the right one with blocks='path.to.list'"
        )
    return found[0]


def check_site(site: Site, depth: int) -> Site:
    """Return the site with a non-negative layer.

    Raises:
        ModelError: if the layer is outside the model.
    """
    if not -depth <= site.layer < depth:
        raise ModelError(
            f"layer {site.layer} is out of range: the base LM has layers 0..{depth - 1}"
        )
    return Site(site.layer % depth, site.kind)


def site_module(blocks: nn.ModuleList, site: Site) -> nn.Module:
    """Return the module whose output is the hidden state of a site.

    Raises:
        ModelError: if the layer is out of range or the block has no such sub-layer.
    """
    site = check_site(site, len(blocks))
    block = blocks[site.layer]
    if site.kind == "residual":
        return block
    return sublayer(block, site.kind)


_SUBLAYER_NAMES = {
    "attention": (
        ("attn", "attention"),
        ("mixer", "conv", "mamba", "ssm", "temporal", "recurrent"),
    ),
    "mlp": (("mlp", "feed_forward", "ffn", "moe"),),
}
"""Parts of a sub-layer's name; later groups count where no child has a name of an earlier one. What
mixes tokens in a block without attention (a convolution, a state space) stands in its place."""


def sublayer(block: nn.Module, kind: str) -> nn.Module:
    """Return the attention or feed-forward module among a block's children, told by its name.

    Raises:
        ModelError: if there is none.
    """
    for parts in _SUBLAYER_NAMES[kind]:
        if (found := _named(block, parts)) is not None:
            return found
    children = ", ".join(name for name, _ in block.named_children())
    raise ModelError(
        f"{type(block).__name__} has no {kind} sub-layer (its children: {children}); "
        "use kind 'residual'"
    )


def attends(block: nn.Module) -> bool:
    """Return whether a block mixes tokens by attention, told by the name of its sub-layer."""
    return _named(block, _SUBLAYER_NAMES["attention"][0]) is not None


def _named(block: nn.Module, parts: tuple[str, ...]) -> nn.Module | None:
    """Return the first child whose name has one of these parts, norms and the like left out."""
    for name, child in block.named_children():
        described = f"{name} {type(child).__name__}".lower()  # as in post_attention_dropout Dropout
        beside = "norm" in described or "dropout" in described
        if not beside and any(part in name for part in parts):
            return child
    return None
