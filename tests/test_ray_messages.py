from orchestrator.cluster.messages import Teller, line_of

LOST = "Raylet is terminated. Termination is unexpected.\n" + "    [state-dump] numbers\n" * 40


def test_a_page_becomes_a_line():
    line = line_of(LOST)
    assert line is not None and line.startswith("Ray: Raylet is terminated.")
    assert len(line) < 80 and "\n" not in line


def test_a_lost_node_is_told_by_its_address():
    named = f"with node id: {'f' * 56} and address: 10.0.0.7 and node name: 10.0.0.7"
    line = line_of(f"The node {named} has been marked dead because the detector missed it.\n (1)")
    assert line is not None and line.startswith("Ray: The node at 10.0.0.7 has been marked dead")
    assert len(line) < 80


def test_what_is_short_stays_whole():
    assert line_of("  no room\n for it ") == "Ray: no room for it"


def test_processes_that_only_wait_are_no_news():
    started = "WARNING: 4 PYTHON worker processes have been started on node: ff with address: 1."
    assert line_of(started) is None
    assert line_of("\n") is None


def test_nothing_is_told_twice(capsys):
    tell = Teller()
    for message in (LOST, LOST, "another"):
        tell({"lines": [message], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    assert len(capsys.readouterr().err.splitlines()) == 2
