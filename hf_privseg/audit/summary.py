"""What an audit found as a table for people, and what its columns mean."""

from collections.abc import Iterable, Mapping, Sequence

from .findings import ATTACKERS, FRESH_KEYS, FRESH_KEYS_IN_WORDS, Finding, verdicts

# Of each metric: the head of its column, and how its value is written.
METRICS = {
    "psnr": ("PSNR, dB", "{:.1f}"),
    "ssim": ("SSIM", "{:.2f}"),
    "hp": ("hp", "{:.2f}"),
    "agreement": ("same classes", "{:.0%}"),
    "exact": ("key exact", "{:.0%}"),
    "within_one": ("within 1 px", "{:.0%}"),
    "signs": ("signs", "{:.0%}"),
}

HP_EXPLANATION = (
    "hp is the correlation between the high-pass luminance of reconstruction and original; 1 is perfect, and a 1/16 "
    "thumbnail has about .1. All figures are lower bounds: a better attack may recover more."
)

EXPLANATION = (
    f"{HP_EXPLANATION} Same classes is the share of pixels to which the plain model gives the class that it "
    "gives the original. Key exact and within 1 px are the shares of the positions in a block that the attack found; "
    "the second one forgives a distance of one pixel and the wrong colour. The images are visually "
    "protected, not encrypted in the cryptographic sense."
)


def shown_metrics(rows: Iterable[Mapping[str, float]]) -> list[str]:
    """The metrics of several findings -> the names of those that any finding has, in the order of `METRICS`."""
    occurring = set().union(*rows)
    return [name for name in METRICS if name in occurring]


def metric_cells(metrics: Mapping[str, float], shown: Sequence[str]) -> list[str]:
    """The metrics of one finding -> a cell for each name in `shown`, empty where the finding lacks that metric."""
    return [METRICS[name][1].format(metrics[name]) if name in metrics else "" for name in shown]


def table_rows(findings: Sequence[Finding]) -> tuple[list[str], list[list[str]]]:
    """Findings -> column heads and one row of text for each finding, without the metrics that no finding has."""
    shown = shown_metrics(finding.metrics for finding in findings)
    head = ["family", "attack", "images", "prior", *(METRICS[name][0] for name in shown), "recovered", "s"]
    rows = []
    for f in findings:
        recovered = "baseline" if f.attacker == "baseline" else "; ".join(filter(None, [f.level, f.note]))
        figures = metric_cells(f.metrics, shown)
        rows.append([f.family, f.attack, str(f.num_images), f.prior, *figures, recovered, f"{f.seconds:.1f}"])
    return head, rows


def short_worst_cases(findings: Sequence[Finding]) -> tuple[list[str], list[list[str]]]:
    """As `worst_cases`, in columns that fit a terminal of 80."""
    rows = [
        [family, attacker, found.level, f"{found.metrics['hp']:.2f}"] for family, attacker, found in verdicts(findings)
    ]
    return ["family", "the attacker has", "recovered", "hp"], rows


def worst_cases(findings: Sequence[Finding]) -> tuple[list[str], list[list[str]]]:
    """Findings -> column heads and a row of text for each family and each thing that an attacker may have."""
    words = ATTACKERS | {FRESH_KEYS: FRESH_KEYS_IN_WORDS}
    rows = [
        [family, words[attacker], found.level, found.attack, f"{found.metrics['hp']:.2f}"]
        for family, attacker, found in verdicts(findings)
    ]
    return ["family", "the attacker has", "recovered", "attack", "hp"], rows
