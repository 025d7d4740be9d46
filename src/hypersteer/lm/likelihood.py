"""How likely a base LM finds responses: cross-entropy per token and per row, on the response only.

Shapes: N response tokens of all rows in row-major order, B rows, V vocabulary.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds, TokenBatch, collate, length_batches
from hypersteer.lm.writers import Writer, written

CHUNK = 32
"""Tokens whose float32 softmax is held at a time; small, so that it stays in cache."""


class _TokenCrossEntropy(torch.autograd.Function):
    """Cross-entropy per token that keeps only the logits and one number per token.

    torch's own keeps a float32 log-softmax and a float32 gradient of all logits, which is most of
    a training step's memory when the vocabulary is large.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor) -> Tensor:  # noqa: ANN001
        normalisers = torch.cat([part.float().logsumexp(-1) for part in logits.split(CHUNK)])
        ctx.save_for_backward(logits, targets, normalisers)
        return normalisers - logits.gather(-1, targets[:, None]).squeeze(-1).float()

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ANN001
        logits, targets, normalisers = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for start in range(0, len(logits), CHUNK):
            part = slice(start, start + CHUNK)
            share = (logits[part].float() - normalisers[part, None]).exp_()
            share.scatter_add_(-1, targets[part, None], -torch.ones_like(share[:, :1]))
            gradient[part] = share.mul_(grads[0][part, None])
        return gradient, None


class _TokenDivergence(torch.autograd.Function):
    """Kullback-Leibler divergence per token that keeps logits only, as above."""

    @staticmethod
    def forward(ctx, logits: Tensor, teacher: Tensor) -> Tensor:  # noqa: ANN001
        ctx.save_for_backward(logits, teacher)
        parts = []
        for mine, theirs in zip(logits.split(CHUNK), teacher.split(CHUNK), strict=True):
            wanted = theirs.float().log_softmax(-1)
            # An impossible token has probability 0, which times its logarithm is 0.
            gap = (wanted - mine.float().log_softmax(-1)).masked_fill(wanted == -torch.inf, 0.0)
            parts.append((wanted.exp() * gap).sum(-1))
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ANN001
        logits, teacher = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for start in range(0, len(logits), CHUNK):
            part = slice(start, start + CHUNK)
            share = logits[part].float().softmax(-1) - teacher[part].float().softmax(-1)
            gradient[part] = share.mul_(grads[0][part, None])
        return gradient, None


def token_divergence(
    logits: Float[Tensor, "N V"], teacher: Float[Tensor, "N V"]
) -> Float[Tensor, " N"]:
    """`KL(softmax(teacher) || softmax(logits))` for every token, float32; no gradient to `teacher`.

    Logits of minus infinity in `teacher` are impossible tokens.
    """
    return _TokenDivergence.apply(logits, teacher.detach())  # type: ignore[return-value]


def token_cross_entropy(
    logits: Float[Tensor, "N V"], targets: Int[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """`logsumexp(logits) - logits[target]` for every token, float32."""
    return _TokenCrossEntropy.apply(logits, targets)  # type: ignore[return-value]


def row_means(
    values: Float[Tensor, " N"], rows: Int[Tensor, " N"], count: int
) -> Float[Tensor, " B"]:
    """Return the mean of the values of each row; `rows` tells which row a value belongs to."""
    sums = values.new_zeros(count).index_add(0, rows, values)
    return sums / torch.bincount(rows, minlength=count).clamp(min=1)


def response_losses(
    lm: BaseLM,
    batch: TokenBatch,
    copies: int = 1,
    teacher: Float[Tensor, "N V"] | None = None,
) -> Float[Tensor, "K B"]:
    """Return the mean loss of each row's response tokens, under whatever hooks are in place.

    Args:
        lm: the base LM.
        batch: K times the same B prompts with their responses, on the model's device.
        copies: K.
        teacher: logits of the N response tokens of the B rows to come close to; the loss is then
            the divergence from them, and otherwise the cross-entropy of the response.
    """
    if teacher is None:
        losses, rows = _response_tokens(lm, batch)
    else:
        logits, rows = response_logits(lm, batch)
        losses = token_divergence(logits, teacher.repeat(copies, 1))
    return row_means(losses, rows, len(batch.ids)).view(copies, -1)


@torch.no_grad()
def response_token_losses(
    lm: BaseLM,
    prompts: Sequence[PromptIds],
    responses: Sequence[Sequence[int]],
    writers: Sequence[Writer] = (),
) -> list[Float[Tensor, " T"]]:
    """Cross-entropy of every response token, in nats, row by row, under fixed edits if given.

    Args:
        lm: the base LM.
        prompts: B tokenised prompts.
        responses: B responses as ids; an empty one gives an empty tensor.
        writers: edits in force, made for these B rows.

    Raises:
        SteeringError: if a prompt and its response do not fit the context window.
    """
    with _reading(lm, prompts, responses, writers) as batch:
        losses, _ = _response_tokens(lm, batch)
    return list(losses.cpu().split([len(response) for response in responses]))


@torch.no_grad()
def answer_logits(
    lm: BaseLM,
    prompts: Sequence[PromptIds],
    responses: Sequence[Sequence[int]],
    writers: Sequence[Writer] = (),
) -> list[Float[Tensor, "T V"]]:
    """Return the logits that predict every response token, row by row, float32 on the CPU.

    Args:
        lm: the base LM.
        prompts: B tokenised prompts.
        responses: B responses as ids.
        writers: edits in force, made for these B rows.

    Raises:
        SteeringError: if a prompt and its response do not fit the context window.
    """
    with _reading(lm, prompts, responses, writers) as batch:
        logits, _ = response_logits(lm, batch)
    return list(logits.float().cpu().split([len(response) for response in responses]))


@contextmanager
def _reading(
    lm: BaseLM,
    prompts: Sequence[PromptIds],
    responses: Sequence[Sequence[int]],
    writers: Sequence[Writer],
) -> Generator[TokenBatch]:
    """Let edits act on prompts and their responses, whose batch it gives.

    Raises:
        SteeringError: if a prompt and its response do not fit the context window.
    """
    for prompt, response in zip(prompts, responses, strict=True):
        lm.check_length(len(prompt.ids) + len(response), "prompt and response")
    batch = collate(prompts, responses, pad_id=lm.chat.pad_id).to(lm.device)
    with written(lm.blocks, writers, batch.spans):
        yield batch


def in_batches(
    lengths: Sequence[int], size: int, run: Callable[[list[int]], Sequence[Tensor]]
) -> list[Tensor]:
    """Run rows of similar length together, and return the results in the order of the rows.

    Args:
        lengths: length of each row.
        size: most rows of a batch.
        run: row numbers -> one result each.
    """
    results: dict[int, Tensor] = {}
    for part in length_batches(lengths, rows=size):
        results.update(zip(part, run(part), strict=True))
    return [results[row] for row in range(len(lengths))]


def _response_tokens(lm: BaseLM, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Return the losses [N] of all response tokens, and the row [N] of each."""
    logits, rows = response_logits(lm, batch)
    return token_cross_entropy(logits, batch.ids[batch.spans.response]), rows


def response_logits(lm: BaseLM, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Return the logits [N, V] that predict the response tokens, and the row [N] of each."""
    response = batch.spans.response
    wanted = torch.zeros_like(response)
    wanted[:, :-1] = response[:, 1:]
    return lm.logits(batch, wanted), response.nonzero()[:, 0]
