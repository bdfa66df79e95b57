"""Throughput of fine-tuning, compared with PyTorch training the same network in the same run.

    python scripts/benchmarks/finetune.py                        one training, and the search over three learning rates
    python scripts/benchmarks/finetune.py --apart                a process on each core, as in a benchmark of many trainings
    python scripts/benchmarks/finetune.py --profile              profile of a step
    python scripts/benchmarks/finetune.py --arch resnet50 --size 224 --batch-size 32 --no-peer --precision bfloat16

The peer is the embedded small ResNet in PyTorch, with the same weights (their outputs are compared first), SGD with Nesterov momentum, and the
faster of its two memory layouts. Both sides read batches from memory, without augmentation. Rounds alternate; medians are printed.
"""

import collections
import glob
import gzip
import json
import multiprocessing
import os
import re
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated

import jax
import numpy as np
import tyro

from ntk_select.experts.preprocess import Preprocess
from ntk_select.kernels.flops import TRAINING, forward_flops
from ntk_select.models import fresh_expert
from ntk_select.models.state_dict import to_state_dict
from ntk_select.training.loop import begin, cross_entropy, make_step, sgd

RATES = (0.01, 0.005, 0.001)


def jax_run(step, optimizer, variables, batches, learning_rate) -> None:
    """One pass over the batches."""
    state, key = begin(variables, optimizer), jax.random.key(0)
    for batch in batches:
        state, _ = step(state, batch, key, learning_rate)
    jax.block_until_ready(state)


def seconds_of(work) -> float:
    """Wall time of a call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compare(ways: dict, images: dict[str, int], rounds: int) -> dict[str, float]:
    """Median images per second of each way, in rounds that alternate. The first round, which compiles, does not count."""
    spent = {name: [] for name in ways}
    for round_ in range(rounds + 1):
        for name, work in ways.items():
            seconds = seconds_of(work)
            if round_:
                spent[name].append(seconds)
    return {name: images[name] / statistics.median(each) for name, each in spent.items()}


def apart(peer: bool, *, arch: str, size: int, batches: list, rounds: int) -> float:
    """Images per second of one training on each core, in processes of one thread, summed. Only on Linux."""
    context = multiprocessing.get_context("spawn")
    cores = sorted(os.sched_getaffinity(0))
    barrier, queue = context.Barrier(len(cores)), context.Queue()
    arguments = (peer, arch, size, batches, rounds, barrier, queue)
    workers = [context.Process(target=_on_core, args=(core, *arguments)) for core in cores]
    for worker in workers:
        worker.start()
    seconds = [queue.get(timeout=1800) for _ in workers]
    for worker in workers:
        worker.join()
    return sum(len(batches) * len(batches[0][0]) / each for each in seconds)


def _on_core(core: int, peer: bool, arch: str, size: int, batches, rounds: int, barrier, queue) -> None:
    """Median seconds of a training in a process that has one core; all processes measure at the same time."""
    os.sched_setaffinity(0, {core})
    expert = fresh_expert(arch, arch, num_classes=10, preprocess=Preprocess(size))
    if peer:
        import torch
        from finetune_peer import train

        torch.set_num_threads(1)
        work = partial(train, to_state_dict(jax.tree.map(np.asarray, expert.variables), expert.apply_fn.module), batches, RATES[:1], "channels_last")
    else:
        optimizer = sgd()
        work = partial(jax_run, make_step(cross_entropy(expert.train_fn), optimizer), optimizer, expert.variables, batches, RATES[0])
    work()
    barrier.wait(timeout=600)
    queue.put(statistics.median(seconds_of(work) for _ in range(rounds)))


def profile(step, state, batch, steps: int = 10) -> None:
    """Prints the milliseconds of a step by kind of operation, as JAX's profiler saw them."""
    key = jax.random.key(0)
    state, _ = step(state, batch, key, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(steps):
                state, _ = step(state, batch, key, 0.0)
            jax.block_until_ready(state)
        (file,) = glob.glob(f"{folder}/**/*.trace.json.gz", recursive=True)
        with gzip.open(file) as stream:
            events = json.load(stream)["traceEvents"]
    spent = collections.Counter()
    for event in events:
        if event.get("ph") == "X" and re.fullmatch(r"[a-z_\-]+(\.\d+)?(\.clone)?", event["name"]):
            spent[re.sub(r"[\d.]+|\.clone", "", event["name"])] += event["dur"]
    for name, duration in spent.most_common(10):
        print(f"{duration / steps / 1e3:8.2f} ms  {name}")


def main(
    *,
    arch: str = "resnet_small",
    size: int = 32,
    batch_size: int = 32,
    steps: int = 40,
    rounds: int = 5,
    precision: str = "float32",
    peer: bool = True,
    on_cores: Annotated[bool, tyro.conf.arg(name="apart")] = False,
    show_profile: Annotated[bool, tyro.conf.arg(name="profile")] = False,
) -> None:
    """Prints images per second.

    Args:
      arch: architecture of the network.
      size: input size in pixels.
      batch_size: images per step.
      steps: steps per measurement.
      rounds: repetitions of all measurements.
      precision: float32 or bfloat16, of this package.
      peer: whether PyTorch is measured (only the small ResNet).
      on_cores: whether to measure a process on each core instead.
      show_profile: whether to print the profile of a step instead.
    """
    expert = fresh_expert(arch, arch, num_classes=10, preprocess=Preprocess(size))
    rng = np.random.default_rng(0)
    batches = [(rng.normal(size=(batch_size, size, size, 3)).astype(np.float32), rng.integers(0, 10, batch_size)) for _ in range(steps)]
    optimizer = sgd()
    step = make_step(cross_entropy(expert.train_fn, precision=precision), optimizer)
    if show_profile:
        profile(step, begin(expert.variables, optimizer), batches[0])
        return
    if on_cores:
        ours, theirs = (apart(side, arch=arch, size=size, batches=batches, rounds=rounds) for side in (False, True))
        print(f"a process per core, together: ours {ours:,.0f} images/s, PyTorch {theirs:,.0f}; ours / PyTorch: {ours / theirs:.2f}")
        return
    run = partial(jax_run, step, optimizer, expert.variables, batches)

    def threads():
        with ThreadPoolExecutor(len(RATES)) as pool:
            list(pool.map(run, RATES))

    one, three = steps * batch_size, steps * batch_size * len(RATES)
    ways = {"ours, one training": partial(run, RATES[0]), "ours, three learning rates": threads}
    images = {"ours, one training": one, "ours, three learning rates": three}
    if peer:
        from finetune_peer import SmallResNet, train, train_together

        state_dict = to_state_dict(jax.tree.map(np.asarray, expert.variables), expert.apply_fn.module)
        network = SmallResNet(state_dict)
        difference = np.abs(network.outputs(batches[0][0]) - np.asarray(expert.apply_fn(expert.variables, batches[0][0]))).max()
        assert difference < 1e-4, difference
        print(f"largest difference of the two networks' outputs: {difference:.1e}")
        for layout in ("contiguous_format", "channels_last"):
            name = f"PyTorch, {layout}"
            ways[f"{name}, one training"] = partial(train, state_dict, batches, RATES[:1], layout)
            images[f"{name}, one training"] = one
        ways["PyTorch, channels_last, three learning rates"] = partial(train, state_dict, batches, RATES, "channels_last")
        images["PyTorch, channels_last, three learning rates"] = three
        ways["PyTorch, channels_last, three at once"] = partial(train_together, state_dict, batches, RATES, "channels_last")
        images["PyTorch, channels_last, three at once"] = three
    found = compare(ways, images, rounds)
    flops = TRAINING * forward_flops(expert.apply_fn, expert.variables, batches[0][0][:1])
    for name, speed in found.items():
        print(f"{name:45s} {speed:9,.0f} images/s  {speed * flops / 1e9:9,.1f} GFLOP/s")
    if peer:
        best = max(speed for name, speed in found.items() if name.startswith("PyTorch") and name.endswith("one training"))
        print(f"ours / PyTorch's better layout, one training: {found['ours, one training'] / best:.2f}")
        three_rates = found["ours, three learning rates"]
        print(
            f"ours at once / PyTorch one after the other, three learning rates: {three_rates / max(best, found['PyTorch, channels_last, three learning rates']):.2f}"
        )
        print(f"ours / PyTorch, three learning rates at once: {three_rates / found['PyTorch, channels_last, three at once']:.2f}")


if __name__ == "__main__":
    tyro.cli(main)
