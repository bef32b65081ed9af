"""Workers in actors of Ray, on a cluster of one machine that listens on its loopback address alone."""

import pytest

from robench.evaluation.workers.driver import Driver, Pool
from robench.evaluation.workers.messages import Report
from robench.evidence.store import RunFile

from .test_shards import BREAKS, letters
from .test_workers import answered, evaluation

ray = pytest.importorskip("ray", reason="Ray is an extra: pip install 'robench[ray]'")
from robench.evaluation.workers import ray_actors  # noqa: E402 (imports Ray)


@pytest.fixture
def loopback(monkeypatch):
    """Connecting to any address starts a Ray that listens on 127.0.0.1, which Ray itself would not do."""
    from ray._private import services

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setattr(services, "resolve_ip_for_localhost", lambda host: host)
    local = {"num_cpus": 2, "_node_ip_address": "127.0.0.1", "include_dashboard": False, "log_to_driver": False}
    monkeypatch.setattr(ray_actors, "connect", lambda address: ray.init(**local))
    yield
    ray.shutdown()


class Killing(ray_actors.RayActors):
    """Kills its first actor after the first report of it."""

    killed = False

    def receive(self, seconds):
        received = super().receive(seconds)
        if not self.killed and any(worker == 0 and isinstance(m, Report) for worker, m in received):
            ray.kill(self._actors[0])
            self.killed = True
        return received


@pytest.mark.processes
def test_actors_find_what_one_process_finds_and_one_may_be_killed(loopback):
    summary, _ = answered(BREAKS, None)
    pool = Killing("10.0.0.5:6379", 2)
    assert isinstance(pool, Pool)
    with Driver(pool) as driver, RunFile.in_memory() as run:
        question = evaluation(run, BREAKS, pool)
        question.elsewhere = driver.search_round
        assert letters(question.answer()) == letters(summary)
    assert pool.killed
    assert not ray.is_initialized()
