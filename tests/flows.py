"""Velocity fields with no weight at zero, and what they give, worked out by plain loops."""

import cmath
import math

import torch

from hypersteer.edits.velocity import TIME_FEATURES, Velocity

D, H, C = 12, 3, 4


def random_field(width=D, seed=0, self_attention=False):
    """A field with no weight at zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        field = Velocity(width, H, 2 * width, self_attention=self_attention)
        for parameter in field.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    return field.requires_grad_(False)


def normed(x, norm):
    return x / (x.pow(2).mean() + 1e-6).sqrt() * norm.weight


def attended(query, keys, values):
    """What one query reads, head by head."""
    size, read = D // H, []
    for head in range(H):
        part = slice(head * size, (head + 1) * size)
        scores = torch.stack([query[part] @ key[part] / math.sqrt(size) for key in keys])
        weights = scores.exp() / scores.exp().sum()
        read.append(sum(w * value[part] for w, value in zip(weights, values, strict=True)))
    return torch.cat(read)


def velocity_by_loops(field, state, time, keys, values, earlier=None, position=0):
    """The velocity at one state; `earlier` has [key, value] of tokens before it, and gets its."""
    half = TIME_FEATURES // 2
    angles = [time * 1e4 ** -(i / half) * 100 for i in range(half)]
    features = torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
    x = state + field.time[2](torch.nn.functional.silu(field.time[0](features)))
    read = attended(field.query.weight @ normed(x, field.query_norm), keys, values)
    x = x + field.attended_factor * (field.out.weight @ read)
    if field.own is not None:
        own, n = field.own, normed(x, field.own.before)
        earlier.append((turned_by_loops(own.key.weight @ n, position), own.value.weight @ n))
        query = turned_by_loops(own.query.weight @ n, position)
        read = attended(query, [key for key, _ in earlier], [value for _, value in earlier])
        x = x + own.factor * normed(own.out.weight @ read, own.after)
    n = normed(x, field.mlp_norm)
    opened = field.opening.weight @ n
    risen = opened / (1 + (-opened).exp()) * (field.rising.weight @ n)
    return x + field.mlp_factor * (field.falling.weight @ risen) - state


def turned_by_loops(x, position):
    """Pairs of a head's numbers, i of the first half and i of the second, as complex numbers."""
    size, made = D // H, x.clone()
    for start in range(0, D, size):
        for i in range(size // 2):
            one, other = start + i, start + size // 2 + i
            angle = position * 1e4 ** (-i / (size // 2))
            turned = complex(float(x[one]), float(x[other])) * cmath.exp(1j * angle)
            made[one], made[other] = turned.real, turned.imag
    return made
