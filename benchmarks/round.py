"""One full round beside a plain forward and backward pass, and beside ByzFL driving the same round.

    pip install byzfl==0.0.11 seaborn
    python benchmarks/round.py
    python benchmarks/round.py --attacks sign_flip
    python benchmarks/round.py --attacks alie --batches drawn
    python benchmarks/round.py --attacks alie --compiled
    python benchmarks/round.py --rules mean krum --repeats 15

A round is all that happens between two updates of the model: the workers' batches and gradients, the attack,
the aggregation and the update. MLP 784-128-128-10, n=20, f=6, B=32, on in-memory noise of MNIST's shape.

The plain pass is `nn.Sequential`, `cross_entropy` and `backward` on 640 samples that lie ready. ByzFL's
round is that of its `byzfl.benchmark.train`: 14 `Client`s, a `ByzantineClient`, a `Server`. Our batches are
drawn in every round; ByzFL's lie ready, or with `--batches drawn` come from the shuffling `DataLoader` of
each client, as in its own runs. Neither computes gradients of the 6 Byzantine workers, which ipm and alie
replace unseen. With sign_flip ours computes all 20, since each worker reverses its own; ByzFL's 6 reverse the
mean of the 14.
The attack is part of the round, in both: ByzFL spends more on alie than on its 14 gradients, on ipm next to
nothing. So the targets beside the plain pass are for ipm, those beside ByzFL for alie. The three are timed in
turns in one process. Compare ratios: times are those of your machine.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any, Literal

import torch
import tyro
from _timing import (
    BATCH_SIZE,
    BYZFL,
    NUM_BYZANTINE,
    NUM_WORKERS,
    WIDTHS,
    load,
    medians,
    mnist_shaped_simulation,
    plain_model,
    plain_pass,
    print_versions,
    verdict,
)
from rich.console import Console
from rich.table import Column, Table

from byzgym import aggregation

# Times faster than ByzFL, under alie. The mean and the geometric median cost little beside the gradients.
TARGETS = {
    "mean": 7.0,
    "krum": 10.0,
    "multi_krum": 10.0,
    "median": 10.0,
    "trimmed_mean": 10.0,
    "mean_around_median": 10.0,
    "geometric_median": 7.0,
}
COORDINATE_WISE = ("median", "trimmed_mean", "mean_around_median")
MOST_OF_PLAIN = 1.6  # times a plain pass, for the mean under ipm
# Our name -> our mapping, ByzFL's name and parameters; the same strength in both.
ATTACKS: dict[str, tuple[dict[str, Any], str, dict[str, float]]] = {
    "ipm": ({"name": "ipm", "epsilon": 0.5}, "InnerProductManipulation", {"tau": 0.5}),
    "alie": ({"name": "alie", "z": 1.5}, "ALittleIsEnough", {"tau": 1.5}),
    "sign_flip": ({"name": "sign_flip"}, "SignFlipping", {}),
    "min_max": ({"name": "min_max"}, "", {}),  # which ByzFL does not have
    "min_sum": ({"name": "min_sum"}, "", {}),
    "ipm_optimized": ({"name": "ipm", "optimize": True}, "", {}),  # ByzFL's searches otherwise
    "alie_optimized": ({"name": "alie", "optimize": True}, "", {}),
}
# Ours draws batches for 16 rounds at a time, so that 16 rounds hold one such draw.
PER_TURN = {"ours": 16, "plain": 16, "ByzFL": 3}


def main(
    attacks: tuple[
        Literal["ipm", "alie", "sign_flip", "min_max", "min_sum", "ipm_optimized", "alie_optimized"], ...
    ] = ("ipm", "alie"),
    rules: tuple[str, ...] = tuple(TARGETS),
    repeats: int = 9,
    threads: int = 2,
    compiled: bool = False,
    batches: Literal["ready", "drawn"] = "ready",
) -> None:
    """Time one full round.

    Args:
        attacks: What the Byzantine workers do; a table for each.
        rules: Which rules.
        repeats: Turns of every contestant; the medians are shown.
        threads: For torch.
        compiled: Run the coordinate-wise rules through torch.compile.
        batches: Where ByzFL's batches come from: they lie ready, or its clients draw them as in its own runs.
    """
    torch.set_num_threads(threads)
    console = Console()
    byzfl = load("byzfl", console)
    print_versions(console, *(["byzfl"] if byzfl else []))
    for attack in attacks:
        rule = Column("rule", no_wrap=True)
        columns = (rule, "ms", "/ plain", "ByzFL ms", "/ ours", "target", "reached")
        table = Table(*columns, title=title(attack))
        for name in rules:
            seconds = compare(name, attack, byzfl, repeats, compiled, batches == "drawn")
            table.add_row(*row(name, attack, seconds))
        console.print(table)


def title(attack: str) -> str:
    model = "-".join(str(width) for width in WIDTHS)
    return f"A round: MLP {model}, n={NUM_WORKERS}, f={NUM_BYZANTINE}, B={BATCH_SIZE}, {attack}"


def compare(
    name: str, attack: str, byzfl: Any, repeats: int, compiled: bool, drawn: bool
) -> dict[str, float]:
    """Median seconds of "ours", "plain" and, where it is installed, "ByzFL"."""
    ours = ATTACKS[attack][0]
    simulation = mnist_shaped_simulation(ours)
    x, y = simulation.setup.task.train
    samples = NUM_WORKERS * BATCH_SIZE
    calls = {
        "ours": our_round(simulation, name, compiled and name in COORDINATE_WISE),
        "plain": plain_pass(plain_model(*WIDTHS), x[:samples].clone(), y[:samples].clone()),
    }
    if byzfl is not None and name in BYZFL and ATTACKS[attack][1]:
        calls["ByzFL"] = byzfl_round(byzfl, name, attack, x, y, drawn)
    seconds = medians(calls, repeats, PER_TURN)
    if simulation.diverged.any():
        raise RuntimeError(f"the run with {name} diverged, so its rounds were not all full ones")
    return seconds


def our_round(simulation: Any, name: str, compiled: bool) -> Callable[[], None]:
    f = aggregation.make_for(name, NUM_WORKERS, NUM_BYZANTINE).num_byzantine
    rule = aggregation.make(name, num_byzantine=f, **({"compiled": True} if compiled else {}))
    simulation.rule = rule
    return lambda: simulation.apply(rule(simulation.gradients))


def byzfl_round(
    byzfl: Any, name: str, attack: str, x: torch.Tensor, y: torch.Tensor, drawn: bool
) -> Callable[[], None]:
    """The body of the training loop in `byzfl.benchmark.train`, without its evaluation and its files."""
    # Models are looked up by name in this module; there is no other way to give one.
    byzfl.fed_framework.models.mlp_of_the_benchmark = lambda: plain_model(*WIDTHS)
    clients = [byzfl_client(byzfl, x, y, worker, drawn) for worker in range(NUM_WORKERS - NUM_BYZANTINE)]
    _, attack_name, parameters = ATTACKS[attack]
    byzantine = byzfl.ByzantineClient(
        {"name": attack_name, "f": NUM_BYZANTINE, "parameters": dict(parameters)}
    )
    server = byzfl_server(byzfl, name, clients[0].training_dataloader)

    def call() -> None:
        model = server.get_dict_parameters()
        for client in clients:
            client.set_model_state(model)
        for client in clients:
            client.compute_gradients()
        honest = [client.get_flat_gradients_with_momentum() for client in clients]
        server.update_model_with_gradients(honest + byzantine.apply_attack(honest))

    return call


def byzfl_client(byzfl: Any, x: torch.Tensor, y: torch.Tensor, worker: int, drawn: bool) -> Any:
    rounds = 16
    first = worker * rounds * BATCH_SIZE
    share = slice(first, first + rounds * BATCH_SIZE)
    dataset = torch.utils.data.TensorDataset(x[share].flatten(1), y[share])
    client = byzfl.Client(
        {
            "model_name": "mlp_of_the_benchmark",
            "device": "cpu",
            "optimizer_name": None,
            "learning_rate": None,
            "loss_name": "CrossEntropyLoss",
            "weight_decay": None,
            "milestones": None,
            "learning_rate_decay": None,
            "LabelFlipping": False,
            "training_dataloader": torch.utils.data.DataLoader(dataset, BATCH_SIZE, shuffle=drawn),
            "momentum": 0.0,
            "nb_labels": WIDTHS[-1],
            "store_per_client_metrics": False,
        }
    )
    if not drawn:
        # Generous: its DataLoader, which collates sample by sample, is out of the measurement.
        client.train_iterator = cycle(list(client.training_dataloader))
    return client


def byzfl_server(byzfl: Any, name: str, loader: Any) -> Any:
    class_name, parameters = BYZFL[name]
    chosen = {"f": NUM_BYZANTINE} if "f" in parameters else {}
    return byzfl.Server(
        {
            "model_name": "mlp_of_the_benchmark",
            "device": "cpu",
            "test_loader": loader,
            "optimizer_name": "SGD",
            "learning_rate": 0.01,
            "weight_decay": 0.0,
            "milestones": [],
            "learning_rate_decay": 1.0,
            "aggregator_info": {"name": class_name, "parameters": chosen},
            "pre_agg_list": [],
        }
    )


def row(name: str, attack: str, seconds: dict[str, float]) -> tuple[str, ...]:
    """The row of the table for one rule."""
    ours, plain, theirs = seconds["ours"], seconds["plain"], seconds.get("ByzFL")
    cells = [name, f"{1e3 * ours:.2f}", f"{ours / plain:.2f}"]
    cells += ["-", "-"] if theirs is None else [f"{1e3 * theirs:.1f}", f"{theirs / ours:.1f}"]
    if attack == "ipm" and name == "mean":
        return (*cells, f"plain {MOST_OF_PLAIN}", verdict(ours / plain <= MOST_OF_PLAIN))
    if attack == "alie" and name in TARGETS and theirs is not None:
        return (*cells, f"ByzFL {TARGETS[name]:g}", verdict(theirs / ours >= TARGETS[name]))
    return (*cells, "-", "-")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
