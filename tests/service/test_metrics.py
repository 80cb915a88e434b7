"""Counters of several processes: all count together, and the queue of one that was killed counts no longer."""

import os
import signal
import subprocess
import sys

import pytest

from helpers.paths import ROOT

pytest.importorskip("prometheus_client")

WORKER = """
import runpy, sys
metrics = runpy.run_path(sys.argv[1])["Metrics"]()  # without the package, which would load torch
metrics.queue_depth.set(3)
metrics.requests.labels("/v1/segment", 200).inc()
print(flush=True)
input()
print(metrics.text(tenants=lambda: 7).decode(), flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_the_queue_of_a_killed_process_counts_no_longer(tmp_path):
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    command = [sys.executable, "-c", WORKER, str(ROOT / "hf_privseg" / "service" / "metrics.py")]
    workers = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.readline()
    alive, _ = workers[0].communicate("\n")
    assert "privseg_queue_depth 9.0" in alive
    workers[1].send_signal(signal.SIGKILL)
    workers[1].communicate()
    found, _ = workers[2].communicate("\n")
    assert "privseg_queue_depth 3.0" in found  # of the third; the first has ended, the second was killed
    assert 'privseg_requests_total{route="/v1/segment",status="200"} 3.0' in found
    assert "privseg_tenants 7.0" in found
