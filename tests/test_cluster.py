"""Clusters: several nodes, one lost in mid-campaign and one that joins; shares of GPUs; who may connect."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from evaluators.analytic import AnalyticWorkload
from evaluators.pools.raypool import RayPool
from evaluators.pools.serial import SerialPool
from search.store.archive import Store
from spaces.messages import Outcome, Trial
from spaces.space import ChannelSpace
from tests.test_campaign import agree, new_campaign, run
from tests.test_pools import run_python

pytestmark = pytest.mark.ray

SPACE = ChannelSpace.chain([16, 24, 32], round_to=2)
WORKLOAD = AnalyticWorkload(SPACE, noise=0.1, sleep_s=0.2)
SMALL = {"include_dashboard": False, "object_store_memory": 80 * 2**20}

NODES = """
import json, sys
from ray.cluster_utils import Cluster
from evaluators.pools.raypool import RayPool
from search.monitor import Monitor
from search.store.archive import Store
from tests.test_campaign import new_campaign
from tests.test_cluster import SMALL, WORKLOAD, gpus_seen

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **SMALL})
node = cluster.add_node(num_cpus=2, num_gpus=2, **SMALL)
report = {"gpus": gpus_seen(cluster.address)}

class Disturbed(RayPool):
    '''Loses the node of two of its three workers; when that is noticed, another node joins.'''
    seen, most = 0, 0
    def completed(self, timeout=None):
        outcomes = super().completed(timeout)
        self.seen += len(outcomes)
        if "lost" not in report and self.seen >= 8 and len(self.pids) == 3:
            report["lost"] = True
            cluster.remove_node(node, allow_graceful=False)
        elif "lost" in report and "joined" not in report and len(self.pids) == 1:
            report["joined"] = True
            cluster.add_node(num_cpus=3, **SMALL)
        elif "joined" in report:
            report["workers"] = max(report.get("workers", 0), len(self.pids))
        return outcomes

with Store(sys.argv[1]) as store:
    campaign = new_campaign(store, workload=WORKLOAD, trials=100, lag=6)
    with Disturbed(WORKLOAD, workers=4, address=cluster.address) as pool:
        campaign.run(pool, Monitor())
print(json.dumps(report))
cluster.shutdown()
"""


class Visible:
    """A spec that says which GPUs a worker sees."""

    fingerprint = "none"

    def build(self) -> "Visible":
        return self

    def evaluate(self, trial: Trial) -> Outcome:
        time.sleep(0.2)
        return Outcome(trial.number, "complete", {"gpu": float(os.environ["CUDA_VISIBLE_DEVICES"])})


def gpus_seen(address: str) -> list[int]:
    """The GPUs that two workers with more than half a GPU each see."""
    with RayPool(Visible(), workers=2, address=address, gpus_per_worker=0.6) as pool:
        for number in range(8):
            pool.submit(Trial(number, ()))
        outcomes = []
        while pool.pending:
            outcomes += pool.completed()
    return sorted({int(outcome.values["gpu"]) for outcome in outcomes})


def test_a_node_may_be_lost_and_another_join_in_mid_campaign(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    done = run_python(NODES, url)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report == {"gpus": [0, 1], "lost": True, "joined": True, "workers": 4}
    quick = replace(WORKLOAD, sleep_s=0.0)
    with Store(url) as store, Store("sqlite://") as apart:
        records = store.records(store.campaigns()[0].id)
        serial = run(new_campaign(apart, workload=WORKLOAD, trials=100, lag=6), SerialPool(quick))
    assert agree(records, serial)


LISTENING = """
import os
from pathlib import Path
from evaluators.pools import RayPool
from evaluators.analytic import AnalyticWorkload
from spaces.messages import Trial
from spaces.space import ChannelSpace

def parents():
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            yield int(stat.parent.name), int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            pass

def sockets(pid):
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            name = os.readlink(link)
        except OSError:
            continue
        if name.startswith("socket:["):
            yield name[8:-1]

space = ChannelSpace.chain((8, 8))
with RayPool(AnalyticWorkload(space), workers=1) as pool:
    pool.submit(Trial(0, space.dense))
    pool.completed()
    family, known = {os.getpid()}, dict(parents())
    while grown := {pid for pid, parent in known.items() if parent in family} - family:
        family |= grown
    mine = {inode for pid in family for inode in sockets(pid)}
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, address, _, state = line.split()[:4]
            if state == "0A" and line.split()[9] in mine:
                print(address.partition(":")[0])
"""


def test_a_local_cluster_listens_on_the_loopback_only() -> None:
    """/proc/net writes 127.0.0.1 as 0100007F, and as ::ffff:127.0.0.1 for sockets that speak both."""
    done = run_python(LISTENING)
    assert done.returncode == 0, done.stderr
    addresses = done.stdout.split()
    assert len(addresses) >= 4
    assert set(addresses) <= {"0100007F", "0000000000000000FFFF00000100007F"}
