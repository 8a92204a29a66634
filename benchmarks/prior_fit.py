"""How long a prior takes to fit, on campaigns of analytic tasks (tests/analytic_family.py).

    python -m benchmarks.prior_fit

Seconds of processor time go to prior_fit.json.
"""

import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.provenance import made
from search.prior.evaluation import fit_prior
from tests.analytic_family import FamilyTask

RESULTS = Path(__file__).with_suffix(".json")
CAMPAIGNS, DATA_SETS, NETWORKS = 50, 25, 200


def main() -> None:
    campaigns = [FamilyTask(seed).campaign(f"set{seed % DATA_SETS}", NETWORKS) for seed in range(CAMPAIGNS)]
    began = time.process_time()
    fit_prior(campaigns)
    spent = round(time.process_time() - began, 1)
    result = {**made(), "campaigns": CAMPAIGNS, "data_sets": DATA_SETS, "networks": NETWORKS, "cpu_s": spent}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(result)


if __name__ == "__main__":
    main()
