"""Coverage of `torch_expert`: which families of timm and of torchvision open, and whether they compute what PyTorch computes.

    python scripts/benchmarks/timm_coverage.py                                     the smallest network per module of timm; half an hour on two cores
    python scripts/benchmarks/timm_coverage.py --library torchvision
    python scripts/benchmarks/timm_coverage.py --names resnet18 vit_tiny_patch16_224 --again

Weights and statistics of batch norm are random, inputs of the size that timm declares. Checked are logits and pre-logits (float32, largest difference relative
to the largest value, against PyTorch's), and that forward and reverse derivatives and the training mode can be traced. A network above --max-params
is made with two blocks per stage or in total if it allows that. Networks run in one worker process, which is ended at --seconds or --memory-gb. Resumable: --out has the results
so far; --again repeats those that are not open, with --names the named ones.
"""

import json
import multiprocessing
import os
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any, Literal

import psutil
import tyro
from rich.console import Console
from rich.table import Table

from ntk_select._runtime.files import write_atomically

CONSOLE = Console(width=200, highlight=False)
TOLERANCE = 1e-4
FEWER_BLOCKS = ({"depth": 2}, {"depths": (1, 1, 1, 1)}, {"layers": (1, 1, 1, 1)}, {"num_features": 256})


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


def made(library: str, name: str, **settings) -> Any:
    """The module with random weights."""
    timm, torchvision = import_libraries()
    if library == "timm":
        return timm.create_model(name, **settings)
    if name in ("googlenet", "inception_v3"):
        settings = {"init_weights": False, **settings}
    return torchvision.models.get_model(name, weights=None, **settings)


def families(library: str) -> dict[str, tuple[str, int]]:
    """The smallest network per module of the library, with its number of parameters."""
    import torch

    timm, torchvision = import_libraries()
    if library == "timm":
        by_family = {module: timm.list_models(module=module) for module in timm.list_modules()}
    else:
        by_family = {}
        for name in torchvision.models.list_models(module=torchvision.models):
            by_family.setdefault(torchvision.models.get_model_builder(name).__module__.rpartition(".")[2], []).append(name)
    found = {}
    for family, names in by_family.items():
        sizes = {}
        for name in names:
            try:
                with warnings.catch_warnings(), torch.device("meta"):
                    warnings.simplefilter("ignore")
                    sizes[name] = count(made(library, name))
            except Exception as error:  # some cannot be made without memory; the others of the family are
                CONSOLE.print(f"{name} cannot be made on the meta device: {type(error).__name__}: {error}")
        if sizes:
            smallest = min(sizes, key=sizes.get)
            found[family] = smallest, sizes[smallest]
    return found


def count(model) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def randomised(model) -> Any:
    """The model with random statistics, and random values in place of scales and shifts that are initialised with one number."""
    import torch

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.8, 1.25)
        for parameter in model.parameters():
            if parameter.numel() > 1 and parameter.min() == parameter.max():
                parameter.uniform_(0.8, 1.25) if parameter.min() > 0.5 else parameter.uniform_(-0.1, 0.1)
    return model


def checked(library: str, name: str, max_params: int) -> dict[str, Any]:
    """The result of one network."""
    import jax
    import numpy as np
    import torch

    import ntk_select as ns

    jax.config.update("jax_disable_most_optimizations", True)
    torch.manual_seed(0)
    model, settings = None, {}
    for settings in ({}, *FEWER_BLOCKS):
        with torch.device("meta"):
            try:
                if count(made(library, name, **settings)) <= max_params:
                    model = randomised_on_cpu(library, name, settings)
                    break
            except (TypeError, AssertionError, RuntimeError):
                if settings == {}:
                    raise
    if model is None:
        return {"status": "skipped", "sentence": f"has more than {max_params / 1e6:.0f} M parameters", "settings": {}}
    known = {"params": count(model), "settings": settings, "class": type(model).__name__}
    began = time.perf_counter()
    try:
        expert = ns.torch_expert(
            name, model, preprocess=import_libraries()[1].models.get_model_weights(name).DEFAULT if library == "torchvision" else None
        )
    except ns.errors.NtkSelectError as error:
        known |= {"status": "refused", "sentence": str(error)}
        return known | {"seconds": time.perf_counter() - began}
    seconds = time.perf_counter() - began
    size = expert.preprocess.size
    x = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    logits, features = of_pytorch(library, model, x, expert.head)
    apply, pre_logits = (jax.jit(fn)(expert.variables, x) for fn in (expert.apply_fn, expert.features_fn))
    block = expert.last_block
    known |= {
        "size": size,
        "seconds": seconds,
        "head": expert.head and ".".join(expert.head),
        "last_conv": expert.last_conv and ".".join(expert.last_conv.path[:-1]),
        "pooled": expert.last_conv is not None and expert.last_conv.pooled is not None,
        "last_block": block and ".".join(block),
        "block_class": block and type(model.get_submodule(".".join(block))).__name__,
        "errors": [distance(apply, logits), distance(pre_logits, features)],
    }
    for what, trace in {
        "gradient": lambda: jax.eval_shape(jax.grad(lambda p: expert.apply_fn({**expert.variables, "params": p}, x).sum()), expert.params),
        "forward derivative": lambda: jax.eval_shape(
            lambda v: jax.jvp(lambda v: expert.apply_fn({**expert.variables, "params": v}, x), (v,), (v,)), expert.params
        ),
        "training": lambda: jax.eval_shape(expert.train_fn, expert.variables, x),
    }.items():
        try:
            trace()
        except Exception as error:
            known[what] = f"{type(error).__name__}: {error}"
    known["status"] = "open" if max(known["errors"]) < TOLERANCE else "differs"
    return known


def randomised_on_cpu(library, name, settings):
    """The model in memory."""
    import torch

    with torch.device("cpu"):
        return randomised(made(library, name, **settings)).eval()


def of_pytorch(library: str, model, x, head):
    """Logits and pre-logits by PyTorch."""
    import torch

    images, seen = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), []
    with torch.inference_mode():
        if library == "timm":
            features = model.forward_head(model.forward_features(images), pre_logits=True)
            return model(images).numpy(), features.flatten(1).numpy()
        model.get_submodule(".".join(head)).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        return model(images).numpy(), seen[0].flatten(1).numpy()


def distance(found, expected) -> float:
    """Largest difference relative to the largest value; infinite if the shapes differ."""
    import numpy as np

    found = np.asarray(found)
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def serve(pipe, library: str, max_params: int) -> None:
    """The worker: answers names with results."""
    warnings.simplefilter("ignore")
    while True:
        name = pipe.recv()
        try:
            pipe.send(checked(library, name, max_params))
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            pipe.send({"status": "error", "sentence": f"{type(error).__name__}: {error}", "where": f"{where.filename}:{where.lineno}"})


class Worker:
    """A process that is started again after it has been ended."""

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
        began, memory = time.monotonic(), psutil.Process(self.process.pid)
        self.pipe.send(name)
        while not self.pipe.poll(0.5):
            if not self.process.is_alive():
                return self.stop("crashed", f"the process ended with {self.process.exitcode}")
            if memory.memory_info().rss > memory_gb * 1e9:
                return self.stop("memory", f"took more than {memory_gb} GB")
            if time.monotonic() > began + seconds:
                return self.stop("time", f"took more than {seconds} s")
        try:
            result = self.pipe.recv()
        except EOFError:
            return self.stop("crashed", "the process ended")
        if memory.memory_info().rss > memory_gb * 5e8:
            self.stop("", "")
        return result

    def stop(self, status: str, sentence: str) -> dict[str, Any]:
        """Ends the process."""
        self.process.kill()
        self.process.join()
        self.process = None
        return {"status": status, "sentence": sentence}


def main(
    *,
    library: Literal["timm", "torchvision"] = "timm",
    names: tuple[str, ...] = (),
    out: Path = Path("runs/timm_coverage"),
    again: bool = False,
    max_params: float = 60e6,
    seconds: float = 240,
    memory_gb: float = 8,
) -> None:
    """Checks and prints.

    Args:
      library: timm or torchvision.
      names: networks; by default the smallest of every family.
      out: folder of the results.
      again: repeats what is not open.
      max_params: largest number of parameters.
      seconds: time limit per network.
      memory_gb: memory limit of the worker.
    """
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    out.mkdir(parents=True, exist_ok=True)
    listed = out / f"{library}_families.json"
    if not listed.exists() and not names:
        write_atomically(listed, json.dumps(families(library), indent=1).encode())
    chosen = {name: name for name in names} or {family: name for family, (name, _) in json.loads(listed.read_text()).items()}
    file = out / f"{library}.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    worker = Worker(library, int(max_params))
    for family, name in chosen.items():
        if name in results and not (again and (names or results[name]["status"] != "open")):
            continue
        results[name] = {"family": family, **worker.ask(name, seconds, memory_gb)}
        write_atomically(file, json.dumps(results, indent=1).encode())
        found = results[name]
        CONSOLE.print(f"{family} {name}: {found['status']} {found.get('sentence', '')} {found.get('last_conv') or found.get('last_block')}")


if __name__ == "__main__":
    tyro.cli(main)
