"""Settings in which several sweeps differ."""

from orchestrator.page.side_by_side import differing_settings


def test_settings_that_differ_are_listed_and_places_are_not():
    def record(lr, **more):
        output = {"output": {"out_dir": str(lr)}}
        return {"config": {"finetune": {"lr": lr, "text": None}} | output, "models": {}} | more

    told = differing_settings([record(3e-4), record(1e-4, versions={"torch": "2.13"})])
    assert told == [
        ("finetune.lr", ["0.0003", "0.0001"]),
        ("versions.torch", ["not recorded", "2.13"]),
    ]
    assert differing_settings([record(3e-4), record(3e-4)]) == []
