"""What does coverage-guided fuzzing find in what reads a user's input? Needs Atheris: pip install atheris.

    python scripts/fuzz.py card --seconds 60
    python scripts/fuzz.py archive --corpus fuzzing/archive        # kept from run to run

Each surface of tests/fuzz/targets.py takes any bytes and must give a result or an error of ntk_select, and touch nothing else.
The first input that does otherwise is left in the folder of --findings, its traceback printed, and the exit status is not 0.
An input that was found belongs into a test: `safely("card", data)` in tests/fuzz.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

FUZZ = Path(__file__).parents[1] / "tests" / "fuzz"
SURFACES = ("uri", "zoo", "config", "zoo_config", "card", "archive", "image", "layout", "npz", "idx", "safetensors", "kernel")
WATCHED = [
    *(f"ntk_select.{name}" for name in ("data", "models", "card", "preprocess", "task", "toml_records", "kernel_file")),
    *("ntk_select.benchmark.config", "ntk_select.training.zoo.config", "tomllib", "json", "zipfile", "numpy.lib.format", "numpy.lib._format_impl"),
    *("PIL.Image", "PIL.ImageFile", "PIL.PngImagePlugin", "PIL.TiffImagePlugin"),
]


def main() -> None:
    """Fuzzes one surface."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("surface", choices=SURFACES)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--runs", type=int, default=-1, help="inputs at most; by default as many as there is time for")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, help="folder of inputs that reach different code; a temporary one by default")
    parser.add_argument("--findings", type=Path, default=Path.cwd(), help="where the input of a finding is left")
    given = parser.parse_args()
    try:
        import atheris
    except ImportError:
        sys.exit("Atheris is not installed. Type: pip install atheris")
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
