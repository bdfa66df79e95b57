"""Coverage-guided fuzzing of all code that reads user input. Needs Atheris: pip install atheris.

    python scripts/fuzz.py card --seconds 60
    python scripts/fuzz.py archive --corpus fuzzing/archive        # reused by later runs

Each surface of tests/fuzz/targets.py accepts any bytes and must return a result or raise an error of ntk_select, without other
side effects. The first input that violates this is written into the folder of --findings, its traceback is printed, and the exit
status is not 0. Add such an input to a test: `safely("card", data)` in tests/fuzz.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

FUZZ = Path(__file__).parents[1] / "tests" / "fuzz"
SURFACES = (
    "uri",
    "zoo",
    "config",
    "zoo_config",
    "card",
    "archive",
    "image",
    "layout",
    "npz",
    "csv",
    "hf",
    "idx",
    "safetensors",
    "kernel",
    "features",
    "hub_name",
    "pattern",
    "ranking",
    "record",
)
WATCHED = [
    *(f"ntk_select.{name}" for name in ("data", "models", "experts", "tasks", "ranking", "_runtime.configs", "kernels.saved_kernel")),
    *("ntk_select.benchmark.config", "ntk_select.training.zoo.config", "tomllib", "json", "zipfile", "numpy.lib.format", "numpy.lib._format_impl"),
    *("PIL.Image", "PIL.ImageFile", "PIL.PngImagePlugin", "PIL.TiffImagePlugin"),
]


def main() -> None:
    """Fuzzes one surface."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("surface", choices=SURFACES)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--runs", type=int, default=-1, help="largest number of inputs; by default limited by time only")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, help="folder of inputs with different coverage; temporary by default")
    parser.add_argument("--findings", type=Path, default=Path.cwd(), help="folder for inputs that failed")
    given = parser.parse_args()
    try:
        import atheris
    except ImportError:
        sys.exit("Atheris is not installed. Try: pip install atheris")
    sys.path.insert(0, str(FUZZ))
    with atheris.instrument_imports(include=WATCHED):
        import targets
    import seeds
    from watch import WATCH

    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    work, home = folder / "work", folder / "home"
    corpus = given.corpus or folder / "corpus"
    for each in (work, home, corpus, given.findings):
        each.mkdir(parents=True, exist_ok=True)
    os.environ |= {"HOME": str(home), "TFDS_DATA_DIR": str(home)}
    for number, seed in enumerate(seeds.seeds()[given.surface]):
        (corpus / f"seed{number}").write_bytes(seed)

    def one(data: bytes) -> None:
        with WATCH.over(folder):
            targets.TARGETS[given.surface](data, work)

    options = {"max_total_time": given.seconds, "runs": given.runs, "seed": given.seed, "rss_limit_mb": 4096, "timeout": 60, "max_len": 20_000}
    options |= {"artifact_prefix": f"{given.findings}{os.sep}{given.surface}-", "print_final_stats": 1}
    atheris.Setup([sys.argv[0], str(corpus), *(f"-{name}={value}" for name, value in options.items())], one)
    atheris.Fuzz()  # ends the process


if __name__ == "__main__":
    main()
