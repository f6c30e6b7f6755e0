"""What `musedeep status` reads while a run goes on."""

import pytest
from distributed import Client, LocalCluster

from musedeep.errors import WorkError
from musedeep.execute import peak_memory, reset_peak_memory
from musedeep.monitor import Monitor, read_state
from musedeep.progress import Progress


def test_the_end_of_a_stage_and_the_next_one_are_told_at_once(tmp_path):
    monitor = Monitor(tmp_path / "state")
    combine = Progress("combine", "blocks", shown=False, watch=monitor.look)
    monitor.begin(combine)
    combine.start(8)
    found = []
    for _ in range(8):
        combine.advance()
        found.append(read_state(tmp_path / "state")["done"])
    # in between now and then
    assert found[-1] == 8 and found[3] == 0
    monitor.begin(Progress("qc", "tasks", shown=False, watch=monitor.look))
    state = read_state(tmp_path / "state")
    assert (state["label"], state["done"], state["total"]) == ("qc", 0, None)
    assert state["workers"][0]["memory"] > 1e6


def test_what_another_run_left_is_forgotten(tmp_path):
    (tmp_path / "state").write_text("{}")
    Monitor(tmp_path / "state")
    assert read_state(tmp_path / "state") is None
    (tmp_path / "state").write_text("{cut")
    assert read_state(tmp_path / "state") is None


def test_a_scheduler_that_is_lost_costs_only_the_news(tmp_path):
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster.scheduler_address) as client,
    ):
        monitor = Monitor(tmp_path / "state", client)
        progress = Progress("combine", "blocks", shown=False, watch=monitor.look)
        monitor.begin(progress)
        assert len(read_state(tmp_path / "state")["workers"]) == 1
        # as when the connection was lost and the client is about to close
        client.sync(client.rpc.close)
        with pytest.raises(RuntimeError, match="ConnectionPool"):
            client.scheduler_info(n_workers=-1)
        monitor.begin(progress)
        assert read_state(tmp_path / "state")["workers"] == []
        with pytest.raises(WorkError, match="connection to the dask scheduler is lost"):
            peak_memory(client)
        with pytest.raises(WorkError, match="connection to the dask scheduler is lost"):
            reset_peak_memory(client)
