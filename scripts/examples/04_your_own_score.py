"""A score of your own, in twenty lines, ranked together with the built-in ones.

A score is a function of arrays from the forward pass (`ntk_select.scores.INPUTS` lists them) that returns a number, or raises
`UndefinedScoreError` with the reason if it has none. Wrapped in a `Score` it gets intervals, a place in the ranking, and a
correlation with every other score. Here: Fisher's ratio of the variance between the classes to that within them.

A package of yours makes its score known by name, for `--scores fisher` and `rank(..., ["fisher"])`, by these lines in its
pyproject.toml, where `fisher` is a `Score` in the module `myscore`:

    [project.entry-points."ntk_select.scores"]
    fisher = "myscore:fisher"
"""

# %%
import numpy as np

import ntk_select as ns
from ntk_select.data import load_task
from ntk_select.errors import UndefinedScoreError
from ntk_select.models import open_zoo
from ntk_select.scores import SCORES, Score


# %% The score, in twenty lines.
def fisher_ratio(features, labels):
    """Variance between the classes over that within them, summed over the features."""
    rows = features.array  # (n, d); features.centred and features.svd are computed once for all scores
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2 or len(classes) == len(rows):
        raise UndefinedScoreError("Two classes are needed, and more than one image in some class.")
    means = np.stack([rows[labels == label].mean(axis=0) for label in classes])
    within = ((rows - means[np.searchsorted(classes, labels)]) ** 2).sum()
    if within == 0:
        raise UndefinedScoreError("The images of every class have the same features.")
    return (counts[:, None] * (means - rows.mean(axis=0)) ** 2).sum() / within


mine = Score(
    fisher_ratio,
    needs=("features", "labels"),
    higher_is_better=True,
    reference="Fisher 1936",
    range="0 or above",
)

# %% With other scores, for the embedded ResNets and handwritten digits.
experts = {name: load for name, load in open_zoo(["builtin"]).items() if "resnet" in name}
scores = {"fisher_ratio": mine, **{name: SCORES[name] for name in ("lfc", "cka", "knn", "random")}}
ranking = ns.rank(experts, load_task("digits"), scores, per_class=10, resamples=20)
print(ranking)

# %% Rank correlation with the other scores.
agreement = ns.agreement(ranking)
for name, value in zip(agreement.names, agreement.matrix[0], strict=True):
    print(f"{name:>14} {value:6.2f}")

# %% Called directly, with a negative control: shuffled labels give almost zero.
rng, labels = np.random.default_rng(0), np.repeat(np.arange(3), 20)
features = ns.scores.Features(rng.normal(size=(60, 5)) + 3 * np.eye(5)[labels])
true, shuffled = (float(mine(features=features, labels=order)) for order in (labels, rng.permutation(labels)))
print(f"true labels {true:.2f}, shuffled labels {shuffled:.2f}")
assert true > 10 * shuffled, "a score must depend on the labels"
cka, random = (agreement.matrix[0, agreement.names.index(name)] for name in ("cka", "random"))
assert cka > random, "it is similar to CKA"
