"""Training of one expert on many domains."""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from ntk_select.experts.card import Card
from ntk_select.experts.multi_domain import compose, split
from ntk_select.models.expert_folder import write_multi_expert
from ntk_select.training.checkpoints import Checkpoints, fingerprint
from ntk_select.training.feeding import Feed, feed
from ntk_select.training.loop import cast, mean_cross_entropy
from ntk_select.training.zoo.members import MultiMember
from ntk_select.training.zoo.single import Zoo, card_of, evaluated, fresh_member, parent_of, reference_means, seed_of, train, with_backbone


def train_multi(zoo: Zoo, member: MultiMember) -> list[Card]:
    """Trains and writes an expert of many domains. Interrupted training resumes. Returns one card per domain.

    Each step has the same number of images of each domain (all images of a domain that has fewer). If batch norm is shared, all images of a step
    pass the network as one batch; otherwise one batch per domain, with its own batch norm. The loss is the mean over domains: the effective
    learning rate of a domain's own parameters is the learning rate divided by the number of domains.
    """
    config, wanted = zoo.config, member.config
    seed = seed_of(config, member.name)
    tasks = {name: zoo.source(name) for name in member.sources}
    fresh = {name: fresh_member(config, member, task.num_classes, seed=f"{seed} {name}") for name, task in tasks.items()}
    parent, domains, common = parent_of(zoo, member.initialised_from), {}, None
    for name, expert in fresh.items():
        variables = with_backbone(expert, parent)
        first, domains[name] = split(variables, wanted.sharing, expert.head)
        common = first if common is None else common  # all start from one backbone: the first domain's
    feeds = {
        name: feed(
            task.images,
            task.labels,
            config.preprocess,
            config.sources[name].augmentation(config.preprocess, task),
            min(wanted.batch_size, len(task.labels)),
            streams=len(tasks),
        )
        for name, task in tasks.items()
    }
    batches = Balanced(feeds, wanted.images_per_epoch)
    loss = _loss({name: expert.train_fn for name, expert in fresh.items()}, feeds, fresh, wanted.sharing == "shared", config.precision)
    variables = {kind: {"common": common.get(kind, {}), "domains": {name: own.get(kind, {}) for name, own in domains.items()}} for kind in common}
    prints = {name: fingerprint(task.images, task.labels) for name, task in tasks.items()}
    with Checkpoints(zoo.checkpoints, member.name, [config, wanted, variables, prints]) as checkpoints:
        trained = train(zoo, checkpoints, member.name, loss, variables, batches, learning_rate=wanted.learning_rate, epochs=wanted.epochs)
        stored = {"common": {kind: tree["common"] for kind, tree in trained.items()}, "domains": {}}
        cards = {}
        for name, task in tasks.items():
            own = {kind: tree["domains"][name] for kind, tree in trained.items()}
            expert = fresh[name].with_variables(compose(stored["common"], own))
            accuracy, means = evaluated(expert, task)
            stored["domains"][name] = {**own, "source": {"class_means": means, **reference_means(zoo, task, means, "")}}
            settings = {
                "epochs": wanted.epochs,
                "batch_size": wanted.batch_size,
                "images_per_epoch": min(wanted.images_per_epoch, batches.steps * wanted.batch_size),
                "learning_rate": wanted.learning_rate,
                "sharing": wanted.sharing,
                "domains": list(member.sources),
            }
            cards[name] = card_of(zoo, member, name, expert, task, accuracy, settings, f"{member.name}@{name}")
        written = write_multi_expert(zoo.folder / member.name, stored, cards)
        checkpoints.delete()
    return list(written.values())


class Balanced:
    """Batches of all domains: each step has one of every domain. Domains without further images are reshuffled and repeated.

    Args:
      feeds: feeds by domain.
      most: images per domain and epoch, at most.
    """

    def __init__(self, feeds: Mapping[str, Feed], most: int):
        self.feeds = feeds
        self.steps = max(1, *(min(feed.batches.steps, most // feed.batches.batch_size) for feed in feeds.values()))

    def __call__(self, rng: np.random.Generator) -> Iterable[dict[str, tuple[np.ndarray, np.ndarray]]]:
        """One epoch."""
        streams = {name: _endless(feed, np.random.default_rng(rng.integers(2**62))) for name, feed in self.feeds.items()}
        for _ in range(self.steps):
            yield {name: next(stream) for name, stream in streams.items()}


def _endless(feed: Feed, rng: np.random.Generator):
    while True:
        yield from feed.batches(rng)


def _loss(train_fns, feeds, experts, as_one_batch: bool, precision: str):
    """(variables, batch, key) -> (mean loss of the domains, changed state), for `make_step`."""

    def whole(variables, name):
        return {kind: compose(variables[kind]["common"], variables[kind]["domains"][name]) for kind in variables}

    def loss(variables, batch, key):
        keys = dict(zip(batch, jax.random.split(key, len(batch)), strict=True))
        inputs = {name: feeds[name].prepare(keys[name], images) for name, (images, _) in batch.items()}
        losses, changed = [], {kind: variables[kind] for kind in variables if kind != "params"}
        if as_one_batch:
            some = next(iter(batch))
            taps, updates = train_fns[some](*cast(whole(variables, some), jnp.concatenate(list(inputs.values())), precision))
            changed = {kind: {**variables[kind], "common": tree} for kind, tree in updates.items()}
            ends = np.cumsum([len(each) for each in inputs.values()])[:-1]
            for (name, (_, labels)), features in zip(batch.items(), jnp.split(taps.features, ends), strict=True):
                head = variables["params"]["domains"][name]
                for part in experts[name].head:
                    head = head[part]
                losses.append(mean_cross_entropy(features @ head["kernel"] + head["bias"], labels))
        else:
            for name, (_, labels) in batch.items():
                taps, updates = train_fns[name](*cast(whole(variables, name), inputs[name], precision))
                for kind, tree in updates.items():
                    changed[kind] = {**changed[kind], "domains": {**changed[kind]["domains"], name: tree}}
                losses.append(mean_cross_entropy(taps.logits, labels))
        return sum(losses) / len(losses), changed

    return loss
