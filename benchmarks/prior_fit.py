"""How long a prior takes to fit: campaigns of analytic tasks (tests/analytic_family.py), 200 networks each.

    python -m benchmarks.prior_fit [--campaigns 50] [--data-sets 25]

Two campaigns a data set by default. Seconds of processor time go to prior_fit.json.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.provenance import made
from search.prior.evaluation import fit_prior
from tests.analytic_family import FamilyTask

RESULTS = Path(__file__).with_suffix(".json")
NETWORKS = 200


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--campaigns", type=int, default=50)
    parser.add_argument("--data-sets", type=int, default=25)
    options = parser.parse_args()
    campaigns = [
        FamilyTask(seed).campaign(f"set{seed % options.data_sets}", NETWORKS)
        for seed in range(options.campaigns)
    ]
    began = time.process_time()
    fit_prior(campaigns)
    found = {"networks": NETWORKS, "cpu_s": round(time.process_time() - began, 1)}
    result = {**made(), "campaigns": options.campaigns, "data_sets": options.data_sets, **found}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(found)


if __name__ == "__main__":
    main()
