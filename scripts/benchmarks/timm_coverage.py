"""Coverage of `torch_expert`: which networks of timm and torchvision open, and whether they compute what PyTorch computes.

    python scripts/benchmarks/timm_coverage.py                        the smallest network per module of timm
    python scripts/benchmarks/timm_coverage.py --every layer          further ones, until each class of layers occurs; an hour on two cores
    python scripts/benchmarks/timm_coverage.py --library torchvision
    python scripts/benchmarks/timm_coverage.py --names resnet18 levit_128s --again

Weights and statistics are random, inputs have the size of timm's configuration. Checked are outputs and pre-logits (float32, largest difference
relative to the largest value, against PyTorch's), and that forward derivatives and the training mode can be traced. A network above --max-params is
made with fewer blocks if it allows that. Networks run in one worker process, which is ended at --seconds or --memory-gb. Resumable: results are kept in
--out; --again repeats those that are not open, and the named ones.
"""

import collections
import json
import multiprocessing
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import psutil
import tyro
from rich.console import Console
from rich.table import Table

import ntk_select as ns
from ntk_select._runtime.files import write_atomically

CONSOLE = Console(width=160, highlight=False)
TOLERANCE = 1e-4
FEWER_BLOCKS = ({}, {"depth": 2}, {"depths": (1, 1, 1, 1)}, {"layers": (1, 1, 1, 1)})


def import_libraries() -> tuple[Any, Any]:
    """timm and torchvision, the latter also where its compiled operators do not fit the installed PyTorch; no network here uses those."""
    try:
        import torchvision
    except Exception:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "models"))
        from torchvision_oracle import import_torchvision

        torchvision = import_torchvision()
    import timm

    return timm, torchvision


def made(library: str, name: str, device: str, **settings) -> Any:
    """The module with random weights on a device."""
    import torch

    timm, torchvision = import_libraries()
    with torch.device(device):
        if library == "timm":
            return timm.create_model(name, **settings)
        more = {"init_weights": False, "aux_logits": True} if name in ("googlenet", "inception_v3") else {}
        return torchvision.models.get_model(name, weights=None, **more, **settings)


def outline(library: str, name: str, **settings) -> Any:
    """The module without memory for its weights; with memory if it needs numbers to be made."""
    try:
        return made(library, name, "meta", **settings)
    except NotImplementedError:
        return made(library, name, "cpu", **settings)


def count(model) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def listed(library: str) -> list[dict[str, Any]]:
    """The smallest network per module of the library; then, from small to large, those with a class of layers that none before has."""
    timm, torchvision = import_libraries()
    if library == "timm":
        by_family = {module: timm.list_models(module=module) for module in timm.list_modules()}
    else:
        by_family = collections.defaultdict(list)
        for name in torchvision.models.list_models(module=torchvision.models):
            by_family[torchvision.models.get_model_builder(name).__module__.rpartition(".")[2]].append(name)
    found = []
    for family, names in by_family.items():
        for name in names:
            model = outline(library, name)
            classes = sorted({f"{type(module).__module__}.{type(module).__name__}" for module in model.modules()})
            found.append({"name": name, "family": family, "params": count(model), "classes": classes})
    found.sort(key=lambda one: one["params"])
    seen: set[str] = set()
    first = list({one["family"]: one for one in reversed(found)}.values())
    for one in first:
        seen |= set(one["classes"])
    more = []
    for one in found:
        if set(one["classes"]) - seen:
            seen |= set(one["classes"])
            more.append(one)
    key = ("name", "family", "params")
    return [{**{field: one[field] for field in key}, "every": every} for every, some in (("family", first), ("layer", more)) for one in some]


def randomised(model) -> Any:
    """The model with random statistics, and random values in place of parameters that are initialised with one number."""
    import torch

    with torch.no_grad():
        for module in model.modules():
            if getattr(module, "running_var", None) is not None:
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.8, 1.25)
        for parameter in model.parameters():
            if parameter.numel() > 1 and parameter.min() == parameter.max():
                parameter.uniform_(*((0.8, 1.25) if parameter.min() > 0.5 else (-0.1, 0.1)))
    return model.eval()


def checked(library: str, name: str, max_params: int) -> dict[str, Any]:
    """The result of one network."""
    import torch

    torch.manual_seed(0)
    for settings in FEWER_BLOCKS:
        try:
            params = count(outline(library, name, **settings))
        except (TypeError, AssertionError):  # it has no such argument
            continue
        if params <= max_params:
            break
    else:
        return {"status": "skipped", "sentence": f"more than {max_params / 1e6:.0f} M parameters"}
    known: dict[str, Any] = {"params": params, "settings": settings}
    model, began = randomised(made(library, name, "cpu", **settings)), time.perf_counter()
    given = import_libraries()[1].models.get_model_weights(name).DEFAULT if library == "torchvision" else None
    try:
        expert = ns.torch_expert(name, model, preprocess=given)
    except ns.errors.ModelError as error:
        return known | {"status": "refused", "sentence": str(error), "seconds": time.perf_counter() - began}
    known["seconds"] = time.perf_counter() - began
    size, block = expert.preprocess.size, expert.last_block
    x = np.random.default_rng(1).normal(size=(2, size, size, 3)).astype(np.float32)
    if expert.taps_fn is None:
        outputs = features = jax.jit(expert.apply_fn)(expert.variables, x)
    else:
        outputs, features, _ = jax.jit(expert.taps_fn)(expert.variables, x)
    expected = of_pytorch(model, x, expert.head)
    known |= {
        "size": size,
        "head": expert.head and ".".join(expert.head),
        "last_conv": expert.last_conv and ".".join(expert.last_conv.path[:-1]),
        "pooled": expert.last_conv is not None and expert.last_conv.pooled is not None,
        "last_block": block and f"{'.'.join(block)} ({type(model.get_submodule('.'.join(block))).__name__})",
        "differences": [distance(*pair) for pair in zip((outputs, features), expected, strict=True)],
    }
    failed = []
    for what, trace in {
        "derivative": lambda: jax.jvp(lambda p: expert.apply_fn({**expert.variables, "params": p}, x), (expert.params,), (expert.params,)),
        "training mode": lambda: expert.train_fn(expert.variables, x),
    }.items():
        try:
            jax.eval_shape(trace)
        except Exception as error:
            failed.append(f"{what}: {type(error).__name__}: {error}")
    status = "differs" if max(known["differences"]) > TOLERANCE else "evaluation only" if failed else "open"
    return known | {"status": status, "sentence": "; ".join(failed)}


def of_pytorch(model, x, head) -> tuple[np.ndarray, np.ndarray]:
    """Outputs and pre-logits by PyTorch: logits and the input of the head, or without a head timm's pre-logits twice."""
    import torch

    images, seen = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), []
    with torch.inference_mode():
        if head is None:
            features = (model(images) if not model.num_classes else model.forward_head(model.forward_features(images), pre_logits=True)).numpy()
            return features, features
        model.get_submodule(".".join(head)).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        return model(images).numpy(), seen[0].flatten(1).numpy()


def distance(found, expected) -> float:
    """Largest difference relative to the largest value; infinite if the shapes differ."""
    found = np.asarray(found)
    return float(np.abs(found - expected).max() / np.abs(expected).max()) if found.shape == expected.shape else float("inf")


def serve(pipe, library: str, max_params: int) -> None:
    """The worker: answers names with results."""
    warnings.simplefilter("ignore")
    jax.config.update("jax_disable_most_optimizations", True)
    while True:
        name = pipe.recv()
        try:
            pipe.send(checked(library, name, max_params))
        except Exception as error:
            pipe.send({"status": "error", "sentence": f"{type(error).__name__}: {error}"})


class Worker:
    """A process that is started again after it was ended."""

    def __init__(self, *args):
        self.args, self.process = args, None

    def ask(self, name: str, seconds: float, memory_gb: float) -> dict[str, Any]:
        """The result for a network, or why there is none."""
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            self.pipe, end = context.Pipe()
            self.process = context.Process(target=serve, args=(end, *self.args), daemon=True)
            self.process.start()
            end.close()
        began, process = time.monotonic(), psutil.Process(self.process.pid)
        self.pipe.send(name)
        while not self.pipe.poll(0.5):
            if not self.process.is_alive():
                break
            if process.memory_info().rss > memory_gb * 1e9:
                return self.ended(f"more than {memory_gb} GB")
            if time.monotonic() > began + seconds:
                return self.ended(f"more than {seconds} s")
        try:
            result = self.pipe.recv()
        except EOFError:
            return self.ended("its process ended")
        if process.memory_info().rss > memory_gb * 5e8:
            self.ended("")
        return result

    def ended(self, sentence: str) -> dict[str, Any]:
        """Ends the process."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None
        return {"status": "ended", "sentence": sentence}


def main(
    *,
    library: Literal["timm", "torchvision"] = "timm",
    every: Literal["family", "layer"] = "family",
    names: tuple[str, ...] = (),
    again: bool = False,
    max_params: float = 6e7,
    seconds: float = 300,
    memory_gb: float = 8,
    out: Path = Path("runs/timm_coverage"),
) -> None:
    """Checks and prints.

    Args:
      library: timm or torchvision.
      every: the smallest network per family, or also one for each class of layers.
      names: networks instead of these.
      again: repeats networks that are not open, and those of `names`.
      max_params: largest number of parameters.
      seconds, memory_gb: limits per network.
      out: folder of results.
    """
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    lists, file = out / f"{library}_networks.json", out / f"{library}.json"
    if not lists.exists():
        write_atomically(lists, json.dumps(listed(library), indent=1).encode())
    networks = [one for one in json.loads(lists.read_text()) if every == "layer" or one["every"] == "family"]
    chosen = [{"name": name, "family": ""} for name in names] or networks
    results = json.loads(file.read_text()) if file.exists() else {}
    worker = Worker(library, int(max_params))
    for one in chosen:
        name = one["name"]
        if name not in results or (again and (names or results[name]["status"] != "open")):
            results[name] = {"family": one["family"], **worker.ask(name, seconds, memory_gb)}
            write_atomically(file, json.dumps(results, indent=1).encode())
            CONSOLE.print(f"{name}: {results[name]['status']}", end="  ")
    worker.ended("")
    report({one["name"]: results[one["name"]] for one in chosen})


def report(results: dict[str, dict[str, Any]]) -> None:
    """Prints the counts and the tables."""
    table = Table("network", "M parameters", "head", "last convolution or block", "differences", "s", title="open")
    failures = Table("network", "status", "reason", title="not open")
    for name, found in results.items():
        if "differences" in found:
            last = found["last_conv"] or found["last_block"] or ""
            differences = " ".join(f"{one:.0e}" for one in found["differences"])
            fewer = " (fewer blocks)" if found["settings"] else ""
            size = f"{found['params'] / 1e6:.1f}{fewer}"
            table.add_row(name, size, found["head"] or "pre-logits", last, differences, f"{found['seconds']:.0f}")
        if found["status"] != "open":
            failures.add_row(name, found["status"], found["sentence"])
    CONSOLE.print("\n", table)
    if failures.row_count:
        CONSOLE.print(failures)
    tried = [found for found in results.values() if found["status"] != "skipped"]
    headless = sum(found["status"] == "open" and found["head"] is None for found in tried)
    CONSOLE.print(
        f"{sum(found['status'] == 'open' for found in tried)} of {len(tried)} networks are open and equal PyTorch within {TOLERANCE:.0e}, "
        f"{headless} of them without a head; {len(results) - len(tried)} skipped"
    )


if __name__ == "__main__":
    tyro.cli(main)
