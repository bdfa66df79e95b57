"""Invalid options end with one sentence, status 2, no traceback, and no files."""

import json
import re
import shutil
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from ntk_select import Card, Preprocess
from ntk_select.cli import main
from ntk_select.models import build, initialise
from ntk_select.models.expert_folder import write_expert

HUGE = "9" * 30
SMOKE = str(Path(__file__).parents[2] / "scripts/configs/smoke.toml")
RECORDS = str(Path(__file__).parents[2] / "scripts/results/embedded")

RANK = [
    ("--per-class 0", "per_class=0 must be an integer of at least 1"),
    ("--per-class -3", "per_class=-3 must be an integer of at least 1"),
    ("--per-class nan", "invalid literal for int.*'nan'"),
    ("--per-class 1.5", r"invalid literal for int.*'1\.5'"),
    ("--seed -1", "seed=-1 must be an integer of at least 0"),
    ("--draws -1", "resamples=-1 must be 0 .* or a whole number from 20"),
    ("--resamples 1", "resamples=1 must be 0 .* or a whole number from 20"),
    ("--batch-size 0", "batch_size=0 must be an integer of at least 1"),
    ("--scores lfcc", "'lfcc' is unknown. Did you mean 'lfc'"),
    ("--scores ,", "No score was named. Allowed: "),
    ("--only asch", "no expert 'asch' in the zoo. Did you mean 'ash'"),
    ("--only ,", "--only names no expert. Try: ntk-select zoo list"),
    ("--scores rsa --reference tinny", "invalid choice 'tinny' for argument '--reference'. Expected one of"),
    ("--measured nothing.json", "cannot be read as JSON: .*No such file"),
    ("--measured file", "cannot be read as JSON"),
    ("--zoo nowhere", "zoo 'nowhere' is neither installed nor a folder"),
    ("--zoo file", "zoo 'file' is neither installed nor a folder"),
    ("--zoo ,", "There is no expert to rank"),
    ("--task digitz", "There is no folder or file 'digitz', and no task of that name. Did you mean 'digits'"),
    ("--task npz:nothing.npz", "There is no file 'nothing.npz'"),
    ("--nonsense 1", "Unrecognized options: --nonsense"),
    ("--out file", "--out 'file' cannot be written: file is not a folder"),
    ("--out file/below", "--out 'file/below' cannot be written: Not a directory"),
    ("--out link", "--out 'link' cannot be written: link is not a folder"),
    ("--out " + "x" * 300, "cannot be written: File name too long"),
    ("--out /proc/here", "--out '/proc/here' cannot be written"),
    ("--per-class 0 --json", "per_class=0"),
]
KERNEL = [
    ("--kind ntq", "invalid choice 'ntq' for argument '--kind'. Expected one of"),
    ("--outputs sume", "invalid choice 'sume' for argument '--outputs'. Expected one of"),
    ("--layers [", "is not a regular expression: unterminated character set"),
    ("--layers nolayer", "layers='nolayer' matches no parameter. Allowed: bn1/bias"),
    ("--precision highst", "invalid choice 'highst' for argument '--precision'. Expected one of"),
    ("--per-class 0", "per_class=0"),
    ("--seed -1", "seed=-1"),
    ("--memory-gb 0", "memory_gb=0.0 must be a positive number of gigabytes"),
    ("--memory-gb nan", "memory_gb=nan must be a positive number"),
    ("--memory-gb inf", "memory_gb=inf must be a positive number"),
    ("--memory-gb 1e-9", "Not even one example at a time .*Try: memory_gb="),
    ("--out kernel.txt", r"does not end in \.npz\. Try: --out kernel\.npz"),
    ("--out file/kernel.npz", "cannot be written: file is not a folder"),
    ("--dim 8", "--dim cannot be combined with --kind ntk"),
    ("--plan --kind sketch", "a sketch needs no plan"),
    ("--kind feature --float64", "--float64 cannot be combined with --kind feature"),
    ("--kind sketch --dim 0", "dim=0 must be a whole number from 1 to"),
    ("--kind sketch --dim x", "--dim x must be a whole number, or auto"),
    ("--kind sketch --dim " + HUGE, "must be a whole number from 1 to"),
    ("--kind sketch --dim 7 --blocks 2", "cannot be split into 2 blocks .*Try: dim=8"),
    ("--kind sketch --blocks 0", "blocks=0 must be a whole number from 1"),
    ("--kind sketch --sketch countsketh", "Did you mean 'countsketch'"),
    ("--kind sketch --sketch jvp --dim auto", "dim='auto' needs a kind"),
    ("--kind sketch --compare exakt", "invalid choice 'exakt' for argument '--compare'. Expected one of"),
    ("--kind sketch --compare exact --repeats 0", "--repeats 0 must be at least 1"),
]
DYNAMICS = [
    ("--lr 0", r"--lr 0\.0 must be a positive number"),
    ("--lr nan", "--lr nan must be a positive number"),
    ("--lr inf", "--lr inf must be a positive number"),
    ("--lr fast", "could not convert string to float|invalid"),
    ("--steps -1", "--steps -1 must be a whole number from 0"),
    ("--steps " + HUGE, "--steps 9+ must be a whole number from 0 to 1,000,000,000"),
    ("--optimizer adam", "invalid choice 'adam' for argument '--optimizer'. Expected one of"),
    ("--optimizer flow", "invalid choice 'flow' for argument '--optimizer'. Expected one of"),
    ("--optimizer gd --momentum 0.9", "momentum=0.9 .* optimizer='momentum'"),
    ("--optimizer momentum --momentum 1.5", "momentum=1.5 must be a number from 0 to below 1"),
    ("--weight-decay nan", "weight_decay=nan must be a number"),
    ("--loss means", "invalid choice 'means' for argument '--loss'. Expected one of"),
    ("--loss cross_entropy", "known for squared losses only. Try: ntk-select dynamics --expert ash .* --lr 0.01"),
    ("--layers [", "is not a regular expression"),
    ("--outputs sum", "invalid choice 'sum' for argument '--outputs'"),
    ("--head big", "invalid choice 'big' for argument '--head'. Expected one of"),
    ("--encoding oneht", "invalid choice 'oneht' for argument '--encoding'. Expected one of"),
    ("--method dens", "invalid choice 'dens' for argument '--method'. Expected one of"),
    ("--test -1", "--test -1 must be a whole number from 0"),
    ("--batch 0", "--batch 0 must be a whole number from 1 to the 4 training images"),
    ("--batch 1000", "--batch 1000 must be a whole number from 1 to the 4"),
    ("--memory-gb nan", "memory_gb=nan must be a positive number"),
    ("--seed -1", "seed=-1"),
]
FINETUNE = [
    ("--shots 0", "shots=0 must be a whole number from 1"),
    ("--shots 1,2", "--shots '1,2' must be one number, or full"),
    ("--shots fulll", "--shots 'fulll' is not a whole number"),
    ("--lr 0", r"learning_rates=\[0\.0\] must be "),
    ("--lr nan", r"learning_rates=\[nan\] must be "),
    ("--lr 0.1;0.2", "--lr '0.1;0.2' is not a number"),
    ("--lr ,,", "--lr needs at least one number"),
    ("--seeds a", "--seeds 'a' is not a whole number"),
    ("--seeds -1", "seed=-1 must be a whole number from 0"),
    ("--seeds ,", "--seeds needs at least one number"),
    ("--choose test", "invalid choice 'test' for argument '--choose'. Expected one of"),
    ("--search grit", "invalid choice 'grit' for argument '--search'. Expected one of"),
    ("--search optuna --trials 0", "trials=0 must be a whole number from 1"),
    ("--epochs 0", "epochs=0 must be a whole number from 1"),
    ("--batch-size -1", "batch_size=-1 must be a whole number from 2"),
    ("--augment flop", "invalid choice 'flop' for argument '--augment'. Expected one of"),
    ("--batch-norm off", "invalid choice 'off' for argument '--batch-norm'. Expected one of"),
    ("--precision float16", "invalid choice 'float16' for argument '--precision'. Expected one of"),
    ("--reference asch", "There is no expert 'asch'.* Did you mean 'ash'"),
    ("--checkpoints file", "--checkpoints 'file' cannot be written: file is not a folder"),
    ("--save-model file", "--save-model 'file' cannot be written"),
]
BENCH = [
    ("run nothing.toml --out made", "The config nothing.toml cannot be read: No such file"),
    ("run file --out made", "The config file is not valid TOML"),
    (f"run {SMOKE} --out file", "--out 'file' cannot be written"),
    (f"run {SMOKE} --out made --executor locl", "Did you mean 'local'"),
    (f"run {SMOKE} --out made --workers -1", "workers=-1 must be a whole number from 0"),
    (f"run {SMOKE} --out made --shard 5/4", "shard 5/4 must be one of 1/N to N/N"),
    (f"run {SMOKE} --out made --shard 1/0", "shard 1/0 must be one of"),
    (f"run {SMOKE} --out made --shard x", "--shard 'x' must be i/n"),
    (f"run {SMOKE} --out made --executor ray --cpus nan", "cpus=nan must be a finite number from 0"),
    (f"run {SMOKE} --out made --executor ray --gpus -1", "gpus=-1 must be a finite number from 0"),
    (f"run {SMOKE} --out made --data nowhere", "--data 'nowhere' is not a folder"),
    ("status nowhere", "'nowhere' contains no benchmark"),
    ("report file", "'file' contains no benchmark"),
    (f"report {RECORDS} --only figur_1 --out made", "Did you mean 'figure_1'"),
    ("pack nowhere --out made", "'nowhere' contains no benchmark"),
]
ZOO = [
    ("list --zoo nowhere", "zoo 'nowhere' is neither installed nor a folder"),
    ("show asch --zoo ZOO", "no expert 'asch' in the zoo. Did you mean 'ash'"),
    ("convert nothing.safetensors --arch resnet18 --out made", "Checkpoint nothing.safetensors is not a file"),
    ("convert file --arch resnet19 --out made", "'resnet19' is unknown. Did you mean 'resnet18'"),
    ("convert file --arch resnet18 --out made --name ../x", "--name '../x' must be the name of a folder"),
    ("convert file --arch resnet18 --out made --size 0", "size must be an integer of at least 1"),
    ("convert file --arch resnet18 --out made --size 300 --resize 200", "resize, if given, at least size"),
    ("convert file --arch resnet18 --out made --std 0 0 0", "std above 0"),
    ("convert file --arch resnet18 --out made --interpolation bilin", "Did you mean 'bilinear'"),
    ("train nothing.toml --data . --out made", "The config nothing.toml cannot be read"),
    ("train file --data . --out made", "The config file is not valid TOML"),
]
TASKS = [
    ("show digitz", "There is no folder or file 'digitz', and no task of that name. Did you mean 'digits'"),
    ("show folder:file", "file"),
    ("prepare grosery --archive x", "is not a data set that can be prepared"),
    ("prepare magnetic_tile --archive nothing", "nothing"),
]
CASES = [
    (group, words, sentence)
    for group, cases in (
        ("rank --task TASK --zoo ZOO", RANK),
        ("kernel --expert ash --task TASK --zoo ZOO", KERNEL),
        ("dynamics --expert ash --task TASK --zoo ZOO", DYNAMICS),
        ("finetune --expert ash --task TASK --zoo ZOO --reference ash", FINETUNE),
        ("bench", BENCH),
        ("zoo", ZOO),
        ("tasks", TASKS),
        ("demo", [("--out file", "--out 'file' cannot be written"), ("--out file/below", "Not a directory")]),
    )
    for words, sentence in cases
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A zoo of one expert and a task of four images, by the words that stand for them."""
    folder, config = tmp_path_factory.mktemp("hostile"), {"stage_sizes": [1], "widths": [2], "stem": "small"}
    shapes = jax.eval_shape(partial(initialise, build("resnet18", num_classes=2, **config), size=4), jax.random.key(0))
    variables = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, np.float32), shapes)
    write_expert(folder / "zoo" / "ash", variables, Card("ash", "resnet18", "trees", Preprocess(size=4), "", 2, config=config))
    images, labels = np.arange(4 * 48, dtype=np.uint8).reshape(4, 4, 4, 3), np.array([0, 0, 1, 1])
    np.savez(folder / "task.npz", images=images, labels=labels, class_names=np.array(["a", "b"]), test_images=images, test_labels=labels)
    return {"ZOO": str(folder / "zoo"), "TASK": f"npz:{folder / 'task.npz'}"}


@pytest.mark.parametrize(("group", "words", "sentence"), CASES, ids=[f"{group.split()[0]} {words}"[:60] for group, words, _ in CASES])
def test_an_impossible_option_is_refused_in_a_sentence_and_nothing_is_made(places, tmp_path, monkeypatch, capsys, group, words, sentence):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("[x")
    Path("link").symlink_to("nowhere")
    arguments = [places.get(word, word) for word in f"{group} {words}".split()]
    if group.split()[0] not in ("bench", "zoo", "tasks", "demo") and "--out" not in arguments:
        arguments += ["--out", "made/kernel.npz" if group.startswith("kernel") and "--compare" not in arguments else "made/x.json"]
    try:
        status = main(arguments)
    except SystemExit as refused:  # by the parser of options
        status = refused.code
    printed, said = capsys.readouterr()
    assert status == 2
    assert printed == ""
    assert re.search(sentence, " ".join(re.sub(r"[|│]", " ", said).split())), said
    assert "Traceback" not in said
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "link"]


def test_json_of_a_ranking_with_a_failure_is_still_json_and_the_status_says_so(places, tmp_path, capsys):
    """Beside an expert that is whole one whose weights are damaged."""
    shutil.copytree(places["ZOO"], tmp_path / "zoo")
    shutil.copytree(tmp_path / "zoo" / "ash", tmp_path / "zoo" / "elm")
    (tmp_path / "zoo" / "elm" / "model.safetensors").write_bytes(b"no weights")
    arguments = ["rank", "--task", places["TASK"], "--zoo", str(tmp_path / "zoo"), "--scores", "num_params", "--json"]
    assert main(arguments) == 1
    printed, said = capsys.readouterr()
    found = json.loads(printed)
    assert [row["name"] for row in found["experts"]] == ["ash"]
    assert "elm" in json.dumps(found["failures"])
    assert "elm failed: " in said
