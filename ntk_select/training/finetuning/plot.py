"""How did the training losses fall?"""

from ntk_select._runtime.figures import file_content, literal, logarithmic, new_figure, whole_steps

from .result import FinetuneResult


def figure_bytes(result: FinetuneResult, file_format: str) -> bytes:
    """The training loss of each learning rate over epochs, the tested training bold."""
    figure = new_figure(6, 4, "A figure of a fine-tuning")
    axes = figure.add_subplot()
    for trial in result.trials:
        if trial.losses:
            label = f"{trial.learning_rate:g}" + (
                " (diverged)" if trial.diverged else "" if trial.accuracy is None else f": {100 * trial.accuracy:.1f} %"
            )
            axes.plot(range(1, len(trial.losses) + 1), trial.losses, lw=1, label=label)
    axes.plot(
        range(1, len(result.losses) + 1), result.losses, color="black", lw=2, label=f"{result.learning_rate:g}, tested: {100 * result.accuracy:.1f} %"
    )
    for epoch in result.recipe.decays:
        axes.axvline(epoch + 0.5, color="0.8", lw=1, zorder=0)
    if any(loss > 0 for losses in (result.losses, *(trial.losses for trial in result.trials)) for loss in losses):
        logarithmic(axes)
    whole_steps(axes)
    axes.set(xlabel="epoch", ylabel="training loss", title=literal(f"{result.expert} on {result.task}"))
    axes.legend(title="learning rate", frameon=False)
    return file_content(figure, file_format)
