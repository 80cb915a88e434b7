"""Reports of audits -> the times from which later audits tell how long they will take.

The reports are of one machine and of images of one size. Where several have an attack, its shortest time counts:

    privseg audit encrypted_model data/camvid/images/test --key-file secret.key --public-base path/to/vit \
      --prior-images data/camvid/images/train --limit 64 --budget full --output outputs/audit_full
    python benchmarks/audit_seconds.py outputs/audit_full/report.json
"""

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path
from statistics import mean

from hf_privseg.audit import duration


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path, help="report.json of each audit")
    reports = [json.loads(path.read_text()) for path in parser.parse_args().reports]
    sizes = {(each["subject"]["height"], each["subject"]["width"]) for each in reports}
    machines = {each["made_with"]["machine"] for each in reports}
    if len(sizes) != 1 or len(machines) != 1:
        parser.error(f"expected reports of one machine and one size, got {sorted(machines)} and {sorted(sizes)}")
    (size,), (machine,) = sizes, machines
    shortest: dict[tuple[str, str, int, str], float] = {}
    for finding in (finding for report in reports for finding in report["findings"]):
        name = finding["attack"], finding["family"], finding["num_images"], finding["prior"]
        shortest[name] = min(finding["seconds"], shortest.get(name, math.inf))
    of_priors: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for name, value in sorted(shortest.items()):
        of_priors[name[:3]].append(value)
    seconds: dict[str, dict[str, dict[str, float]]] = {}
    for (attack, family, count), values in of_priors.items():
        seconds.setdefault(attack, {}).setdefault(family, {})[str(count)] = round(mean(values), 3)
    content = {
        "machine": machine,
        "pixels": size[0] * size[1],
        "seconds": seconds,
    }
    path = Path(duration.__file__).parent / "attack_seconds.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"Wrote {path}: {len(shortest)} attacks, {sum(shortest.values()):.0f} s.")


if __name__ == "__main__":
    main()
