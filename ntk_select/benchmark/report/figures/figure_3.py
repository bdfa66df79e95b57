"""Figure 3: gain of the domains of a multi-domain expert over the reference, beside the best single-domain expert."""

from ntk_select.benchmark.report.results import Results
from ntk_select.benchmark.report.words import multi_domain, single_domain

from .gains import BAR, draw_gains, gains
from .gains import nothing as no_gains
from .look import BLACK, caption

TITLE = "Fine-tuning the domains of a multi-domain expert"
BEST, DOMAIN = "best single-domain expert", "domain"
ROLES = ("truth",)


def data(results: Results) -> list[dict]:
    """One row a target, number of shots and domain, and one for the best single-domain expert, where a domain was not trained on the target."""
    found = []
    for shots in results.shots:
        for task in results.task_names:
            rows = gains(results, task, shots)
            single = [row for row in rows if single_domain(row["expert"])]
            domains = [{**row, "what": DOMAIN} for row in rows if multi_domain(row["expert"])]
            if domains and single:
                domains.append({**max(single, key=lambda row: row["gain_points"]), "what": BEST})
            found += domains
    return found


def nothing(results: Results) -> str:
    """Why there is no figure."""
    if not any(map(multi_domain, results.taking_part)):
        return "No multi-domain expert takes part."
    if results.config.reference is None or not any(gains(results, task, shots) for shots in results.shots for task in results.task_names):
        return no_gains(results)
    return "No domain of a multi-domain expert was fine-tuned yet on a target whose data the network has not seen."


def text(results: Results) -> tuple[str, ...]:
    """The caption, in parts."""
    return caption(
        results,
        f"Test accuracy after fine-tuning minus that of the reference {results.config.reference}, mean over seeds. Only targets that the multi-domain "
        "network was not trained on; it has seen the sources of all its domains. The best single-domain expert is picked on test accuracies, so that it "
        "is too high by their noise. The paper's figure 3 draws test error, of all ResNet-101 experts of one domain beside. Some domains are better than "
        "ImageNet on Magnetic Tile, Flowers, Cucumber and iCassava; on iCassava by 1.4 points, single-domain experts by 0.72.",
        ROLES,
        [BAR],
    )


def draw(results: Results):
    """A column a target, a mark a domain."""
    return draw_gains(results, data(results), TITLE, {BEST: (BLACK, "D")})
