"""What `hypersteer train --dry-run` prints."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from hypersteer.training.memory import Memory
from hypersteer.training.plan import DEVICES, Plan, count

WIDTH = 110
Lines = Iterator[tuple[str, str]]
PARTS = (
    ("base_lm_below", "base LM below the site, forward"),
    ("base_lm_above", "base LM above it, there and back"),
    ("head", "vocabulary head on responses, there and back"),
    ("hypernet", "hypernetwork, there and back"),
    ("edits", "edits, there and back"),
    ("teacher", "base LM without edits, as a teacher"),
    ("prior", "base LM reading steering prompts"),
)
HELD = (
    ("base_lm", "base LM"),
    ("weights", "hypernetwork, float32"),
    ("copies", "its weights in 16 bits, while products run"),
    ("gradients", "gradients"),
    ("optimizer", "AdamW's running means"),
    ("update", "AdamW's update, for a moment"),
    ("buckets", "buckets that gradients are exchanged in"),
    ("gathered", "weights gathered while blocks run"),
)


def print_plan(plan: Plan) -> None:
    """Print a plan as a table to standard output."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    sections = (_models(plan), _step(plan), _run(plan), _memory(plan), _processes(plan))
    for number, section in enumerate(sections):
        if number:
            table.add_row("", "")
        for name, value in section:
            table.add_row(name, value)
    Console(width=WIDTH, highlight=False).print(table)


def _models(plan: Plan) -> Lines:
    lm, hypernet, config = plan.lm, plan.hypernet, plan.config
    layers = ", ".join(f"{site.layer} ({site.kind})" for site in hypernet.sites)
    dtype = str(plan.dtype).removeprefix("torch.")
    vocabulary = f"{lm.model.config.get_text_config().vocab_size:,}"
    yield (
        "base LM",
        f"{lm.name}: {lm.depth} blocks, width {lm.width}, vocabulary {vocabulary}, {dtype}",
    )
    yield "", f"{plan.parameters:,} parameters, of which {plan.embeddings:,} embeddings"
    edit = config.hypernet.edit
    shape = f"{config.hypernet.variant}, {config.hypernet.blocks} blocks"
    yield "hypernetwork", f"{shape}; writes {edit} edits at layer {layers}"
    ratio = plan.trained / plan.parameters
    yield "", f"{plan.trained:,} parameters, all trained: {ratio:.3f} of the base LM's, "
    together = (plan.trained + plan.embeddings) / plan.parameters
    yield "", f"{together:.3f} with the embeddings that it reads"
    named = ((name, count(part)) for name, part in hypernet.named_children())
    yield "", ", ".join(f"{name} {size:,}" for name, size in named if size)


def _step(plan: Plan) -> Lines:
    yield "tokens of rows", plan.rows.told
    optim = plan.config.optim
    rows = f"{optim.batch_size} rows in {optim.accumulation} parts" if optim.accumulation > 1 else (
        f"{optim.batch_size} rows"
    )  # fmt: skip
    yield "FLOPs of a step", f"{amount(plan.step.total)} ({rows} on each process)"
    for name, told in PARTS:
        if value := getattr(plan.step, name):
            yield f"  {amount(value)}", f"{told} ({value / plan.step.total:.1%})"


def _run(plan: Plan) -> Lines:
    config = plan.config
    processes, steps = config.plan.processes, config.optim.steps
    on = "" if processes == 1 else f" on each of {processes} processes"
    yield "steps", f"{steps:,}; {amount(plan.tokens)} tokens of prompts and responses"
    if plan.rows.rows:
        epochs = steps * config.optim.batch_size * processes / plan.rows.rows
        yield "", f"{epochs:.2f} epochs of {plan.rows.rows:,} training rows"
    yield (
        "FLOPs in all",
        f"{amount(plan.total)}{on}, of which {amount(plan.validation)} in validations",
    )
    for device in DEVICES:
        found = plan.hours(device)
        speed = f"{config.plan.utilisation:.0%} of {amount(device.peak)}FLOP/s"
        products = f"{hours(found.products)} of products at {speed}"
        updates = f"{hours(found.weights)} of updates at {amount(device.bandwidth)}B/s"
        whole = hours(found.products + found.weights)
        yield f"  {device.name}", f"{whole}: {products}, {updates}"
    kept = f"{config.keep} newest, the best, and one being written, {size(plan.checkpoint)} each"
    yield "disk", f"{size(plan.disk)} of checkpoints at most: {kept}"


def _memory(plan: Plan) -> Lines:
    memory, parts = plan.memory, plan.config.optim.accumulation
    yield "memory", f"{size(memory.peak(parts))} at its peak, on one device"
    for name, told in HELD:
        if value := getattr(memory, name):
            yield f"  {size(value)}", told
    if memory.activations is None:
        yield "  unknown", "activations: this architecture does not run without weights"
    else:
        yield f"  {size(memory.activations)}", "activations and gradients of logits"
    if plan.config.optim.gradient_checkpointing:
        yield "", "without optim.gradient_checkpointing, which keeps less and runs blocks twice"
    yield "", "not all of it is there at once; kernels' workspace and fragmentation come on top"


def _processes(plan: Plan) -> Lines:
    processes, parts = plan.config.plan.processes, plan.config.optim.accumulation
    if processes == 1:
        return
    each: tuple[tuple[str, Memory], ...] = (("DDP", plan.replicated), ("FSDP2", plan.split))
    yield f"on {processes} devices", "memory of each at its peak:"
    for name, memory in each:
        yield f"  {size(memory.peak(parts))}", name


def amount(value: float) -> str:
    """Write a large number with a unit: 92.0 M, 666 T."""
    for unit in ("", "k", "M", "G", "T", "P", "E"):
        if abs(value) < 999.5 or unit == "E":
            break
        value /= 1000
    return f"{value:.3g} {unit}".rstrip() if abs(value) >= 1 or not value else f"{value:.3g}"


def size(value: float) -> str:
    """Write bytes: 5.23 GB, of 10^9."""
    return f"{amount(value)}B" if value >= 1000 else f"{value:.0f} B"


def hours(value: float) -> str:
    """Write hours, short ones as minutes."""
    return f"{value:.1f} hours" if value >= 1 else f"{60 * value:.1f} minutes"
