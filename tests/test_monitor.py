"""What `musedeep status` reads while a run goes on."""

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
