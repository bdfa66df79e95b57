"""Inputs of the scores for each expert: from one forward pass shared by all scores, from its card, and from other networks."""

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy as np

from ntk_select._runtime.cache import Cache
from ntk_select._runtime.progress import timed
from ntk_select.errors import ConfigError, DataError, ModelError, NtkSelectError, explained
from ntk_select.experts.expert import Expert
from ntk_select.experts.feature_expert import FeatureExpert
from ntk_select.experts.forward import ProbePass, forward, has_pooled_last_conv
from ntk_select.experts.network_inputs import IN_MEMORY, DecodedImages, NetworkInputs, network_inputs, resized
from ntk_select.experts.preprocess import Preprocess
from ntk_select.kernels.directions import directional_kernel
from ntk_select.kernels.engine.ntk import ntk_plan
from ntk_select.kernels.gradients import gradient_kernel, narrow_inputs
from ntk_select.kernels.last_conv import pooled_kernel
from ntk_select.ranking.features import check_images, inputs_of_features, softmax_of, without_network
from ntk_select.ranking.keys import Keys
from ntk_select.scores import Features, Input, Score
from ntk_select.tasks.labels_only import has_images
from ntk_select.tasks.probe_sample import ProbeSample
from ntk_select.tasks.task import Task

MAX_PRODUCTS = 5e12
"""Largest number of products for the exact gradient kernel of one expert, minutes of a CPU. A costlier kernel is estimated from random directions."""

PASSES = {"features", "source_probs", "gradient_kernel", "training_kernel"}
"""Inputs that need a pass of the images through the expert."""


class ScoreInputs:
    """Computes the inputs of scores for one expert after another, on the same images.

    Args:
      task, sample: the images.
      scores: scores by name; only inputs that they take are computed.
      seed: seed of scores with random numbers.
      batch_size: images per forward pass.
      cache: cache of passes and kernels.
      reference: reference network of RSA and DDS: an expert trained on the task, a function that returns one, or the name of a network to train.
      measured: fine-tuned accuracies by expert and task.
      names: names of all experts of the ranking.
      recipe, learning_rates: settings of the forecasted fine-tuning; None for the paper's.
      layers: layers whose gradients LGC takes: "last_conv", "all", or a regular expression for the "/"-joined paths of parameters.
      progress: called during the training of the reference network.

    Attributes:
      needs: names of the inputs that the scores take.
      headless: experts whose kernel is that of their pre-logits.
      blocks: experts without a last convolution, whose gradient kernel is of the weights of their last block, and that block.
      estimated: experts whose gradient kernel is estimated, and the number of random directions.
      extractors: names of the extractors of the source means that were used.
      seconds: spent once for the whole zoo, by step.
      uncached: experts whose passes have no key in the cache.

    Raises:
      ConfigError: two scores define different inputs of one name.
    """

    def __init__(
        self,
        task: Task,
        sample: ProbeSample,
        scores: Mapping[str, Score],
        *,
        seed: int,
        batch_size: int,
        cache: Cache,
        reference: Expert | str | Callable[[], Expert] = "tiny",
        measured: Mapping[str, Mapping[str, float]] | None = None,
        names: Iterable[str] = (),
        recipe: Any = None,
        learning_rates: Sequence[float] | None = None,
        layers: str = "last_conv",
        progress: Callable[[int, int, str], None] | None = None,
    ):
        self.task, self.sample, self.scores = task, sample, scores
        self.needs = {name for score in scores.values() for name in score.takes}
        self._own = _own_inputs(scores)
        self.seed, self.batch_size, self.cache = seed, batch_size, cache
        self.reference, self.progress = reference, progress
        self.recipe, self.learning_rates, self.layers = recipe, learning_rates, layers
        self.elsewhere = _elsewhere({name: row for name, row in (measured or {}).items() if name in set(names)}, task.name)
        self.headless: list[str] = []
        self.blocks: list[str] = []
        self.estimated: list[str] = []
        self.extractors: dict[str, None] = {}
        self.seconds: dict[str, float] = {}
        self.uncached: list[str] = []
        self._images = DecodedImages(sample.images)
        self._resized: dict[tuple, np.ndarray] = {}
        self._keys = Keys()
        self._of_extractor: dict[Any, np.ndarray | str] = {}

    def features_of(self, expert: Expert, images: Sequence[np.ndarray] | None = None) -> np.ndarray | None:
        """Pre-logits of images, those of the probe sample by default, through the cache and the programs of the scores. None if the expert has none.

        Raises:
          NtkSelectError: the images cannot enter the expert.
        """
        x = self._network_inputs(expert) if images is None else network_inputs(expert.preprocess, images)
        key, _ = self._keys_of(expert, x, with_kernel=False)
        arrays = self.cache.get(key)
        if arrays is None:
            pooled = "gradient_kernel" in self.needs and self._is_pooled(expert)
            arrays = _arrays_of(forward(expert, x, last_conv=pooled, batch_size=self.batch_size))
            self.cache.put(key, arrays)
        return arrays.get("features")

    def of(self, name: str, expert: Expert | FeatureExpert, seconds: dict[str, float]) -> tuple[dict[str, Any], dict[str, str]]:
        """The inputs that are available, and for the others the reason. Adds the time of each step to `seconds`.

        Raises:
          NtkSelectError: the images cannot enter the expert, or its features are not of these images.
        """
        inputs: dict[str, Any] = {"labels": self.sample.labels, "name": name, "seed": self.seed, "num_params": expert.num_params}
        inputs |= {"task_key": self._task_key}
        inputs |= {} if self.recipe is None else {"recipe": self.recipe, "learning_rates": self.learning_rates}
        reasons: dict[str, str] = {}
        if isinstance(expert, FeatureExpert):
            check_images(expert, self.task)
            found, reasons = inputs_of_features(expert, self.sample)
            inputs |= found
        elif self.needs & PASSES:
            try:
                with timed(seconds, "preprocess"):
                    x = self._network_inputs(expert)
            except ModelError as error:
                if not self.needs - PASSES - {"labels"}:
                    raise  # no score of this expert is left
                reasons |= dict.fromkeys(PASSES, str(error))
            else:
                found, more = self._passed(expert, x, self.needs, seconds)
                inputs |= found
                reasons |= more
        for name_of_input, own in self._own.items():
            try:
                with timed(seconds, "inputs"):
                    inputs[name_of_input] = own.compute(expert, self.sample)
            except Exception as error:  # foreign code may raise anything
                reasons[name_of_input] = explained(error) + (f" ({without_network(expert)})" if isinstance(expert, FeatureExpert) else "")
        if "reference_features" in self.needs:
            self._give(inputs, reasons, "reference_features", self.reference_features)
        if "accuracies_elsewhere" in self.needs:
            self._give(inputs, reasons, "accuracies_elsewhere", self._accuracies_elsewhere(name))
        if self.needs & {"source_means", "own_source_means"}:
            inputs["class_counts"] = np.unique(self.task.labels, return_counts=True)[1]
        if not isinstance(expert, FeatureExpert):
            self._from_card(name, expert, inputs, reasons)
        return inputs, reasons

    @cached_property
    def _task_key(self) -> str:
        """Identifies the task and its probe sample."""
        drawn = np.stack([self.sample.indices, self.sample.labels]).astype("<i8").tobytes()
        return f"{self.task.name}, {len(self.sample)} images, {zlib.crc32(drawn):08x}"

    def _give(self, inputs, reasons, name: str, found) -> None:
        """Adds a value to the inputs, or a string to the reasons."""
        if isinstance(found, str):
            reasons[name] = found
        else:
            inputs[name] = found

    # Passes through the expert

    def _network_inputs(self, expert: Expert) -> np.ndarray | NetworkInputs:
        preprocess = expert.preprocess
        if preprocess is None:
            raise ModelError(f"Expert {expert.name!r} has no preprocess and cannot process images. Try: Expert(..., preprocess=Preprocess(size=224))")
        if not isinstance(preprocess, Preprocess):
            return np.asarray(preprocess(self._images))
        if preprocess.geometry not in self._resized:
            in_memory = sum(pixels.nbytes for pixels in self._resized.values() if not isinstance(pixels, np.memmap))
            self._resized[preprocess.geometry] = resized(preprocess, self._images, IN_MEMORY - in_memory)
        return NetworkInputs(self._resized[preprocess.geometry], preprocess)

    def _passed(self, expert: Expert, x, needs: set[str], seconds: dict[str, float]) -> tuple[dict[str, Any], dict[str, str]]:
        """Features, softmax and kernels of one expert, cached if possible; `needs` names the inputs to compute."""
        with_kernel = "gradient_kernel" in needs
        with timed(seconds, "cache"):
            of_passes, of_kernel = self._keys_of(expert, x, with_kernel)
            arrays, kernel = self.cache.get(of_passes), self.cache.get(of_kernel)
        passes, reason = None, ""
        pooled = with_kernel and kernel is None and self._is_pooled(expert)
        if arrays is None or pooled:
            seconds.setdefault("forward", 0.0)
            passes = forward(expert, x, last_conv=pooled, batch_size=self.batch_size, seconds=seconds)
            if arrays is None:
                arrays = _arrays_of(passes)
                self.cache.put(of_passes, arrays)
        if with_kernel and kernel is None:
            # An expert without a head is differentiated at its pre-logits.
            outputs = "features" if expert.head is None and "features" in arrays else "trace"
            with timed(seconds, "backward"):
                found, directions, reason = self._gradient_kernel(expert, x, passes if pooled else None, outputs)
            if found is not None:
                kernel = {"gradient_kernel": found, "directions": np.array(directions)}
                self.cache.put(of_kernel, kernel)
        if kernel is not None:
            self._note(expert, int(kernel.get("directions", 0)), "features" in arrays)
        inputs = {} if kernel is None else {"gradient_kernel": kernel["gradient_kernel"]}
        reasons = {"gradient_kernel": reason} if reason else {}
        known = arrays.get("features")
        sentence = f"Expert {expert.name!r} has no features_fn, and so no features. Try: Expert(..., features_fn=...)"
        self._give(inputs, reasons, "features", sentence if known is None else Features(known))
        if "source_probs" in needs:
            self._give(inputs, reasons, "source_probs", _source_probs(expert, arrays["logits"]))
        if "training_kernel" in needs:
            with timed(seconds, "forecast"):
                self._give(inputs, reasons, "training_kernel", self._training_kernel(expert, x, of_passes))
        return inputs, reasons

    def _is_pooled(self, expert: Expert) -> bool:
        """Whether the gradient kernel follows from the forward pass with inputs and cotangents of the last convolution."""
        return self.layers == "last_conv" and has_pooled_last_conv(expert)

    def _keys_of(self, expert: Expert, x, with_kernel: bool) -> tuple[str | None, str | None]:
        """Keys of the passes and of the kernel; None where they are not cached."""
        if not self.cache:
            return None, None
        try:
            passes = self._keys.of_passes(expert, x)
            kernel = self._keys.of_kernel(expert, x, passes, self.layers) if with_kernel and passes else None
        except Exception:  # foreign code; the expert is scored without the cache
            passes = kernel = None
        if passes is None:
            self.uncached.append(expert.name)
        return passes, kernel

    def _training_kernel(self, expert: Expert, x, of_passes: str | None) -> np.ndarray | str:
        """The kernel of the forecasted fine-tuning, cached if possible; or the reason why there is none."""
        from ntk_select.forecasting.kernel import training_kernel
        from ntk_select.training.finetuning.recipe import Recipe  # imported here because of Optax

        recipe, key = self.recipe or Recipe(), None
        with suppress(Exception):  # foreign code; the expert is scored without the cache
            key = of_passes and self._keys.of_training_kernel(expert, x, of_passes, recipe.batch_norm, recipe.head, self.seed)
        if (known := self.cache.get(key)) is not None:
            return known["training_kernel"]
        try:
            kernel = training_kernel(expert, x, batch_norm=recipe.batch_norm, seed=self.seed).with_head(recipe.head)
        except DataError:
            raise
        except Exception as error:
            return explained(error)
        self.cache.put(key, {"training_kernel": kernel})
        return kernel

    def _note(self, expert: Expert, directions: int, has_features: bool) -> None:
        """Notes how the gradient kernel differs from the usual one."""
        if expert.head is None and has_features:
            self.headless.append(expert.name)
        if self.layers == "last_conv" and expert.last_conv is None and expert.last_block is not None:
            self.blocks.append(f"{expert.name} ({'/'.join(expert.last_block)})")
        if directions:
            self.estimated.append(f"{expert.name} ({directions})")

    def _gradient_kernel(self, expert: Expert, x, passes: ProbePass | None, outputs: str) -> tuple[np.ndarray | None, int, str]:
        """The kernel, from passes with a pooled last convolution if given, and the number of random directions (0: exact); or None and the reason."""
        directions = 0
        try:
            if passes is not None:
                kernel = pooled_kernel(expert, passes, outputs)
            elif self._products(expert, x, outputs) <= MAX_PRODUCTS:
                kernel = gradient_kernel(expert, np.asarray(x), layers=self.layers, outputs=outputs, batch_size=self.batch_size)
            else:
                kernel, directions = directional_kernel(expert, x, layers=self.layers, outputs=outputs, seed=self.seed, batch_size=self.batch_size)
        except NtkSelectError as error:
            return None, 0, str(error)
        return (kernel, directions, "") if np.isfinite(kernel).all() else (None, 0, "The gradients contain NaN or infinity.")

    def _products(self, expert: Expert, x, outputs) -> float:
        """Products that the engine estimates for the kernel, without forward passes."""
        if expert.last_conv is None and expert.last_block is None and self.layers == "last_conv":
            return 0.0
        fn, variables, outputs, layers = narrow_inputs(expert, self.layers, outputs)
        shape_only = np.broadcast_to(np.zeros((), x.dtype), x.shape)
        plan = ntk_plan(fn, variables, shape_only, outputs=outputs, layers=layers)
        return (plan.flops - plan.pass_flops) / 2

    # Other networks, the card, other tasks

    @cached_property
    def reference_features(self) -> np.ndarray | str:
        """Pre-logits of the reference network, computed once for the zoo; or the reason why there are none."""
        with timed(self.seconds, "reference"):
            return self._features_of_reference()

    def _features_of_reference(self) -> np.ndarray | str:
        from ntk_select.training.reference import trained_reference  # imported here because of Optax

        if not has_images(self.task):
            return "RSA and DDS compare with a network that is trained on the images of the task; there are only features of them."
        reference, key = self.reference, None
        try:
            if callable(reference):
                reference = reference()
            if not isinstance(reference, Expert):
                key = self._keys.of_reference(self.task, self.sample, reference, self.seed) if self.cache else None
                if (known := self.cache.get(key)) is not None:
                    return known["features"]
                reference = trained_reference(self.task, reference, seed=self.seed, progress=self.progress)
            found = self._features_through(reference)
        except DataError:
            raise
        except Exception as error:
            return f"The reference network of RSA and DDS is not available: {explained(error)}"
        if not isinstance(found, str):
            self.cache.put(key, {"features": found})
        return found

    def _accuracies_elsewhere(self, name: str) -> np.ndarray | str:
        """Accuracies after fine-tuning on other tasks, or why there are none."""
        known = self.elsewhere.get(name)
        if known is None:
            return (
                "No accuracy on another task was given. Try: rank(..., measured={expert: {task: accuracy}}), on the command line --measured FILE.json"
            )
        return known if len(known) else "There is no other task on which all of these experts were fine-tuned."

    def _features_through(self, expert: Expert) -> np.ndarray | str:
        """Pre-logits of the images by a network that is not scored."""
        found, reasons = self._passed(expert, self._network_inputs(expert), set(), {})
        return found["features"].array if "features" in found else reasons["features"]

    def _from_card(self, name: str, expert: Expert, inputs: dict[str, Any], reasons: dict[str, str]) -> None:
        card, source = expert.card, expert.source
        for key, value in (("source_size", card and card.num_images), ("source_accuracy", card and card.test_accuracy)):
            if key in self.needs:
                self._give(inputs, reasons, key, f"The card of expert {name!r} does not have it." if value is None else value)
        if not self.needs & {"source_means", "own_source_means"}:
            return
        inputs |= {} if source is None else {"source_counts": source.class_counts}
        unknown = f"Expert {name!r} has no source statistics: class means and counts of the data it was trained on."
        own = None if source is None else source.class_means
        self._give(inputs, reasons, "own_source_means", unknown if own is None else own)
        if source is None or source.reference_class_means is None or source.reference is None:
            reasons["source_means"] = unknown if source is None else f"The extractor behind the source means of expert {name!r} is not available."
            return
        features = self._features_of_extractor(source)
        self._give(inputs, reasons, "source_means", features if isinstance(features, str) else source.reference_class_means)
        if not isinstance(features, str):
            self.extractors[source.reference_name] = None
            inputs["domain_features"] = features

    def _features_of_extractor(self, source) -> np.ndarray | str:
        """Pre-logits of the extractor that made the source means, computed once for all experts that share it."""
        if source.reference not in self._of_extractor:
            with timed(self.seconds, "extractor"):
                try:
                    found = self._features_through(source.reference())
                except DataError:
                    raise
                except Exception as error:
                    found = f"The extractor {source.reference_name!r} cannot be used: {explained(error)}"
            self._of_extractor[source.reference] = found
        return self._of_extractor[source.reference]


def _own_inputs(scores: Mapping[str, Score]) -> dict[str, Input]:
    """The inputs that scores define themselves, by name."""
    own: dict[str, Input] = {}
    for score in scores.values():
        for name, given in score.inputs.items():
            if own.setdefault(name, given) != given:
                raise ConfigError(f"Two scores define different inputs named {name!r}. Try: another name for one of them")
    return own


def _arrays_of(passes: ProbePass) -> dict[str, np.ndarray]:
    """The part of a pass that is cached."""
    return {"logits": _plain(passes.logits)} | ({} if passes.features is None else {"features": _plain(passes.features)})


def _plain(array) -> np.ndarray:
    """The array in a type of NumPy, which files can store: bfloat16 becomes float32, exactly."""
    array = np.asarray(array)
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def _source_probs(expert: Expert, logits: np.ndarray) -> np.ndarray | str:
    if expert.head is None:
        return f"Expert {expert.name!r} has no head, so LEEP and NCE are undefined. Try: nleep"
    return softmax_of(expert.name, logits)


def _elsewhere(measured: Mapping[str, Mapping[str, float]], task: str) -> dict[str, np.ndarray]:
    """For each expert its accuracies on the other tasks on which all experts of `measured` were fine-tuned."""
    common = set.intersection(*(set(row) - {task} for row in measured.values())) if measured else set()
    return {name: np.array([row[other] for other in sorted(common)]) for name, row in measured.items()}
