"""The expected curves of a fine-tuning as a figure."""

from ntk_select._runtime.figures import literal, logarithmic, new_figure, whole_steps
from ntk_select.forecasting.result import Forecast


def curves(forecast: Forecast):
    """Expected accuracy and losses over epochs for each learning rate, the best one bold. Returns a matplotlib Figure.

    Raises:
      MissingDependencyError: matplotlib is not installed.
    """
    figure = new_figure(9, 3.8, "The figure of a forecast")
    left, right = figure.subplots(1, 2)
    epochs = range(1, forecast.recipe.epochs + 1)
    colours = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
    for place, (rate, one) in enumerate(forecast.by_rate.items()):
        if one.diverged:
            continue
        style = {"color": colours[place % len(colours)], "lw": 2.4 if one is forecast.best else 1.2}
        left.plot(epochs, 100 * one.curve.accuracies, label=f"{rate:g}: {100 * one.accuracy:.1f} %", **style)
        right.plot(epochs, one.curve.losses, **style)
        right.plot(epochs, one.curve.training_losses, linestyle=":", **style)
    best = forecast.best
    error = [[100 * (best.accuracy - best.low)], [100 * (best.high - best.accuracy)]]
    left.errorbar([forecast.recipe.epochs], [100 * best.accuracy], yerr=error, color="black", capsize=4, fmt="o", ms=4)
    right.plot([], [], color="0.3", label="new images")
    right.plot([], [], color="0.3", linestyle=":", label="training images")
    for axes in (left, right):
        for epoch in forecast.recipe.decays:
            axes.axvline(epoch + 0.5, color="0.85", lw=1, zorder=0)
        whole_steps(axes)
        axes.set_xlabel("epoch")
        axes.spines[["top", "right"]].set_visible(False)
    logarithmic(right)
    left.set_ylabel("expected accuracy on new images (%)")
    right.set_ylabel("expected loss (nats)")
    left.legend(title="learning rate", frameon=False, loc="lower right")
    right.legend(frameon=False)
    figure.suptitle(literal(f"{forecast.expert} on {forecast.task}"), fontsize=11)
    return figure
