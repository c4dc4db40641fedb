"""Compute operations, memory and traffic of JoLA on large models, and check the formulas on the default model.

    python -m benchmarks.scale             # the tables of docs/scale.md
    python -m benchmarks.scale --measure   # one training step of the default model, counted by PyTorch

The models of the tables are defined by their shapes and are not loaded.
"""

import argparse
from dataclasses import dataclass
from typing import Any

GIGA = 1e9


@dataclass(frozen=True)
class Shape:
    """A Llama-like decoder. `queries` and `keys` are the widths of all their heads together."""

    layers: int
    hidden: int
    queries: int
    keys: int
    mlp: int
    vocabulary: int
    tied: bool = False

    @property
    def attention(self) -> int:
        """Number of weights of the attention projections of a layer."""
        return self.hidden * (2 * self.queries + 2 * self.keys)

    @property
    def feed_forward(self) -> int:
        """Number of weights of the MLP of a layer."""
        return 3 * self.hidden * self.mlp

    @property
    def parameters(self) -> int:
        """Number of weights of the model, without norms."""
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * (self.attention + self.feed_forward)

    @property
    def trained(self) -> int:
        """Number of parameters that JoLA trains, without gates: an offset and a scale for each channel of each head."""
        return 2 * self.layers * self.queries


SHAPES = {
    "1B": Shape(16, 2048, 2048, 512, 8192, 128_256, tied=True),
    "8B": Shape(32, 4096, 4096, 1024, 14_336, 128_256),
    "70B": Shape(80, 8192, 8192, 1024, 28_672, 128_256),
}
"""Llama 3.2 1B, Llama 3.1 8B and 70B."""


def forward_flops(shape: Shape, rows: int, tokens: int, answers: int) -> float:
    """Return the operations of a forward pass over `rows` × `tokens` tokens with logits at `answers` positions.

    Attention is counted without the savings of causal masks. The last MLP and the head run only at the answers.
    """
    n = rows * tokens
    linear = 2 * n * (shape.layers * (shape.attention + shape.feed_forward) - shape.feed_forward)
    scores = 4 * shape.layers * n * tokens * shape.queries
    return linear + scores + 2 * answers * (shape.feed_forward + shape.vocabulary * shape.hidden)


def backward_flops(shape: Shape, rows: int, tokens: int, answers: int) -> float:
    """Return the operations of the backward pass of a training step.

    Frozen weights need no gradient, so each product has one counterpart instead of two; products before the first edit,
    at the output projection of layer 0, have none. Attention has four products for the two of the forward pass; fused
    attention recomputes the scores and has five.
    """
    n = rows * tokens
    before = n * shape.hidden * (shape.queries + 2 * shape.keys)
    linear = 2 * (n * (shape.layers * (shape.attention + shape.feed_forward) - shape.feed_forward) - before)
    scores = 8 * (shape.layers - 1) * n * tokens * shape.queries
    return linear + scores + 2 * answers * (shape.feed_forward + shape.vocabulary * shape.hidden)


def saved_bytes(shape: Shape, bytes_per_number: int = 2) -> float:
    """Return the bytes of activations that a training step saves per token.

    Frozen products save only their weights, not their inputs. Each layer saves the input of both norms in float32,
    three tensors of the MLP, query, key, value and output of attention, and the input of the edit.
    """
    layer = 2 * 4 * shape.hidden + bytes_per_number * (3 * shape.mlp + 3 * shape.queries + 2 * shape.keys)
    return shape.layers * layer


def checkpointed_bytes(shape: Shape, bytes_per_number: int = 2) -> float:
    """Return the same with ``--gradient-checkpointing``: the input of each layer, and all activations of one layer."""
    return bytes_per_number * shape.layers * shape.hidden + saved_bytes(shape, bytes_per_number) / shape.layers


def measure(rows: int, tokens: int, answers: int) -> None:
    """Count one training step of the default model and compare it with the formulas."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from jola import JoLAModel

    # PyTorch does not count fused attention on a CPU, so eager attention is used; it also saves the attention weights.
    model = JoLAModel.from_pretrained(dtype="bfloat16", device="cpu", attn_implementation="eager").train()
    config: Any = model.config
    shape = Shape(
        config.num_hidden_layers,
        config.hidden_size,
        model.geometry.num_heads * model.geometry.head_dim,
        config.num_key_value_heads * model.geometry.head_dim,
        config.intermediate_size,
        config.vocab_size,
        config.tie_word_embeddings,
    )
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, shape.vocabulary, (rows, tokens), generator=generator)
    labels = ids.clone()
    labels[:, : tokens - answers] = -100
    weights = {weight.untyped_storage().data_ptr() for weight in model.base.parameters()}

    def kept() -> int:
        """Return the bytes that a forward pass saves in addition to the weights."""
        storages: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(*batch)
        return sum(storages.values())

    batch = ids, torch.ones_like(ids), labels
    model(*batch)  # the first pass also checks that batches can be packed
    with FlopCounterMode(display=False) as forward:
        loss = model(*batch).loss
    assert loss is not None
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    model.base.set_attn_implementation("sdpa")
    all_kept = kept()
    model.gradient_checkpointing = True
    few_kept = kept()
    size = rows, tokens, rows * answers
    print(
        f"{shape.parameters / 1e6:.1f} million weights, {rows} × {tokens} tokens, {answers} answer tokens in each row"
    )
    for name, counted, formula in (
        ("forward, GFLOP", forward.get_total_flops() / GIGA, forward_flops(shape, *size) / GIGA),
        ("backward, GFLOP", backward.get_total_flops() / GIGA, backward_flops(shape, *size) / GIGA),
        ("kept, kB a token", all_kept / rows / tokens / 1e3, saved_bytes(shape) / 1e3),
        ("  checkpointed", few_kept / rows / tokens / 1e3, checkpointed_bytes(shape) / 1e3),
    ):
        print(f"{name:<18}{counted:10.1f} counted {formula:10.1f} by formula   ratio {counted / formula:.3f}")


def tables(rows: int, tokens: int, answers: int, rate: float, bandwidth: float, load: float) -> None:
    """Print the tables for the models in `SHAPES`.

    Args:
        rate: Operations per second of an accelerator.
        bandwidth: Bytes per second of its memory.
        load: Bytes per second at which weights are loaded.
    """
    size = rows, tokens, rows * answers
    print("model | weights bf16, GB | 4 bits, GB | kept, GB | edits and optimizer, MB | TFLOP a step | s a step")
    for name, shape in SHAPES.items():
        flops = forward_flops(shape, *size) + backward_flops(shape, *size)
        numbers = shape.parameters
        linear = shape.layers * (shape.attention + shape.feed_forward)
        print(
            f"{name} | {2 * numbers / GIGA:.1f} | {(linear * 4.5 / 8 + 2 * (numbers - linear)) / GIGA:.1f} | "
            f"{saved_bytes(shape) * rows * tokens / GIGA:.1f} | {16 * shape.trained / 1e6:.1f} | {flops / 1e12:.1f} | "
            f"{flops / rate:.2f}"
        )
    print("model | gradients of edits between processes, MB a step | reading the weights once, ms | loading, s")
    for name, shape in SHAPES.items():
        weights = 2 * shape.parameters
        print(f"{name} | {4 * shape.trained / 1e6:.2f} | {1e3 * weights / bandwidth:.1f} | {weights / load:.0f}")


def grid(cells: int, examples: int, validated: int, tested: int, epochs: int, tokens: int, decoded: int) -> None:
    """Print the cost of a grid of cells on the 8B model, with the rates of `tables`."""
    shape, batch = SHAPES["8B"], 32
    step = forward_flops(shape, 1, tokens, 4) + backward_flops(shape, 1, tokens, 4)
    once = forward_flops(shape, 1, tokens, 4)
    training, validation, test = examples * epochs * step, validated * epochs * once, tested * once
    reading = -(-tested // batch) * decoded * 2 * shape.parameters / BANDWIDTH
    for name, seconds in (
        ("training", training / RATE),
        ("validation", validation / RATE),
        ("test, prompts", test / RATE),
        ("test, decoding", reading),
        ("loading", 2 * shape.parameters / LOAD),
    ):
        print(f"{name:<16}{seconds:8.1f} s a cell {cells * seconds / 3600:8.2f} GPU-hours for {cells} cells")


RATE, BANDWIDTH, LOAD = 4e14, 3.35e12, 1e9
"""Assumptions: 40 % of an H100's 989 TFLOP/s in bfloat16, its memory of 3.35 TB/s, and weights at 1 GB/s from disk."""


def main() -> None:
    """Print the tables, or with ``--measure`` the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--measure", action="store_true", help="Count a step of the default model.")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--answers", type=int, default=4)
    options = parser.parse_args()
    if options.measure:
        measure(options.rows, options.tokens, options.answers)
        return
    tables(options.rows, options.tokens, options.answers, RATE, BANDWIDTH, LOAD)
    # `jola grid plan --preset main`: 200 training examples, 8 epochs, and the default validation and test sizes.
    grid(416, 200, 100, 500, 8, options.tokens, 32)


if __name__ == "__main__":
    main()
