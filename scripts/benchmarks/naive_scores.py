"""The formulas of the scores as they are published, the reference for `scores.py`.

Nothing is shared or rearranged: n x n kernels, d x d covariances, one matrix per class. Slow; only for comparison.
"""

import numpy as np
from scipy.special import logsumexp, softmax
from scipy.stats import spearmanr
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import KNeighborsClassifier


def lfc(features, labels):
    """Pearson correlation of the entries of two n x n matrices."""
    same = np.where(labels[:, None] == labels, 1.0, -1.0)
    return np.corrcoef((features @ features.T).ravel(), same.ravel())[0, 1]


def between(features, labels):
    """Covariance of the class means, d x d."""
    means = np.stack([features[labels == label].mean(axis=0) for label in labels])
    return np.cov(means, rowvar=False)


def hscore(features, labels):
    """Pseudo-inverse of the covariance times the covariance of the class means."""
    return np.trace(np.linalg.pinv(np.cov(features, rowvar=False), rcond=1e-10) @ between(features, labels))


def hscore_shrinkage(features, labels):
    """The same with the covariance of Ledoit and Wolf."""
    fitted = LedoitWolf().fit(features)
    return (1 - fitted.shrinkage_) * np.trace(np.linalg.solve(fitted.covariance_, between(features, labels)))


def logme(features, labels):
    """Fixed-point iterations for every class, with the determinant over the spanned directions."""
    left, values, _ = np.linalg.svd(features, full_matrices=False)
    sigma, n, total = values**2, len(labels), 0.0
    for label in np.unique(labels):
        y = (labels == label).astype(float)
        x2 = (left.T @ y) ** 2
        outside, a, b = y @ y - x2.sum(), 1.0, 1.0
        for _ in range(200):
            t = a / b
            gamma, m2 = (sigma / (sigma + t)).sum(), (sigma * x2 / (t + sigma) ** 2).sum()
            rest = (x2 / (1 + sigma / t) ** 2).sum() + outside
            a, b = gamma / m2, (n - gamma) / rest
            if abs(a / b - t) <= 1e-9 * t:
                break
        total += 0.5 * (len(sigma) * np.log(a) + n * np.log(b) - np.log(a + b * sigma).sum() - b * rest - a * m2 - n * np.log(2 * np.pi)) / n
    return total / len(np.unique(labels))


def transrate(features, labels, distortion=1e-4):
    """Determinants of d x d matrices, one for every class."""
    centred = features - features.mean(axis=0)

    def rate(rows):
        return 0.5 * np.linalg.slogdet(np.eye(rows.shape[1]) + rows.T @ rows / (len(rows) * distortion))[1]

    return rate(centred) - sum((labels == label).mean() * rate(centred[labels == label]) for label in np.unique(labels))


def gbc(features, labels):
    """A loop over pairs of classes."""
    rows = PCA(64, svd_solver="full").fit_transform(features)
    means = [rows[labels == label].mean(axis=0) for label in np.unique(labels)]
    variances = [np.maximum(rows[labels == label].var(axis=0), 1e-4 * (rows**2).mean()) for label in np.unique(labels)]
    total = 0.0
    for i in range(len(means)):
        for j in range(len(means)):
            if i != j:
                mean = (variances[i] + variances[j]) / 2
                distance = ((means[i] - means[j]) ** 2 / mean).sum() / 8
                total -= np.exp(-distance - 0.5 * np.log(mean / np.sqrt(variances[i] * variances[j])).sum())
    return total


def parc(features, labels):
    """Two n x n matrices of Pearson distances and SciPy's Spearman correlation. Signs of the components matter to Pearson's."""
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    rows = PCA(32, svd_solver="full").fit_transform(scaled)
    rows *= np.sign(rows[np.abs(rows).argmax(axis=0), np.arange(rows.shape[1])])
    hot = (labels[:, None] == np.unique(labels)).astype(float)
    upper = np.triu_indices(len(labels), 1)
    return 100 * spearmanr((1 - np.corrcoef(rows))[upper], np.round(1 - np.corrcoef(hot), 9)[upper]).statistic


def sfda(features, labels):
    """Two discriminant analyses with d x d covariances."""
    rows = features - features.mean(axis=0)
    rows /= np.sqrt((rows**2).sum(axis=1).mean())
    classes, width = np.unique(labels), rows.shape[1]

    def analysed(rows, amount=None):
        means = np.stack([rows[labels == c].mean(axis=0) for c in classes])
        within = sum((labels == c).mean() * np.cov(rows[labels == c], rowvar=False, bias=True) for c in classes)
        amount = np.exp(-5 * np.linalg.eigvalsh(within)[-1]) if amount is None else amount
        inverse = np.linalg.inv((1 - amount) * within + amount * np.trace(within) / width * np.eye(width))
        shares = np.log([(labels == c).mean() for c in classes])
        return softmax(rows @ inverse @ means.T - 0.5 * np.diag(means @ inverse @ means.T) + shares, axis=1), means, amount

    first, means, amount = analysed(rows)
    position = np.searchsorted(classes, labels)
    q = softmax(first, axis=1)[np.arange(len(labels)), position][:, None]
    others = np.stack([np.delete(means, c, axis=0).mean(axis=0) for c in range(len(classes))])
    second = analysed(q * rows + (1 - q) * others[position], amount)[0]
    return second[np.arange(len(labels)), position].mean()


def nuclear(features, labels):
    """The first term of NCTI, by scikit-learn's discriminant analysis."""
    rows = PCA(64, svd_solver="full").fit_transform(features)
    amount = max(np.exp(-rows.var(axis=0, ddof=1)[:32].sum()), 1e-10)
    analysis = LinearDiscriminantAnalysis(solver="eigen", shrinkage=amount).fit(rows, labels)
    return np.linalg.norm(analysis.transform(rows), "nuc")


def energy(features, _labels):
    """The first term of ETran."""
    return np.sort(logsumexp(features, axis=1))[: max(1, int(0.005 * len(features)))].mean()


def knn(features, labels):
    """scikit-learn's nearest neighbour other than the image itself."""
    fitted = KNeighborsClassifier(1, algorithm="brute").fit(features, labels)
    return (labels[fitted.kneighbors(None, return_distance=False)[:, 0]] == labels).mean()


def cka(features, labels):
    """Each n x n kernel between two centring matrices."""
    centring = np.eye(len(labels)) - 1 / len(labels)
    a, b = (centring @ kernel @ centring for kernel in (features @ features.T, (labels[:, None] == labels).astype(float)))
    return (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)


def generalization_features(features, labels):
    """A linear system of n equations."""
    kernel = features @ features.T
    kernel /= np.trace(kernel) / len(labels)
    targets = (labels[:, None] == np.unique(labels)).astype(float)
    return (targets * np.linalg.solve(kernel + 1e-4 * np.eye(len(labels)), targets)).sum() / len(labels)


NAIVE = {f.__name__: f for f in (lfc, hscore, hscore_shrinkage, logme, transrate, gbc, parc, sfda, knn, cka, generalization_features)}
NAIVE_TERMS = {"etran": ("energy", energy), "ncti": ("nuclear", nuclear)}
