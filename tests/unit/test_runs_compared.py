"""The table of compared layouts shows what the record holds."""

from fabricated import Fabricated, entry

from workshop.records.compared import table


def test_each_layout_stands_beside_all_gpus_alone() -> None:
    summary = {
        "tokens_per_s{layout=alone}": entry(120_000.0),
        "tokens_per_s{layout=pp2}": entry(90_000.0),
        "compute_ms{layout=pp2,rank=0}": entry(300.0),
        "compute_ms{layout=pp2,rank=1}": entry(500.0),
    }
    for layout, (low, high) in {"alone": (43, 43), "pp2": (13, 18)}.items():
        for rank, gib in enumerate((low, high)):
            summary[f"memory_gib{{layout={layout},rank={rank}}}"] = entry(gib)
    lines = table(Fabricated(summary)).splitlines()
    assert lines[2].split() == ["alone", "120.0", "100.0%", "43.0"]
    assert lines[3].split() == ["pp2", "90.0", "75.0%", "18.0", "25.0%"]
    assert lines[1].split()[-1] == "imbalance"
    plain = {k: v for k, v in summary.items() if "compute" not in k}
    lines = table(Fabricated(plain)).splitlines()
    assert lines[1].split()[-1] == "GiB"
    assert lines[3].split() == ["pp2", "90.0", "75.0%", "18.0"]
