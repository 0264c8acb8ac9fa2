from imprint.demo.probes import KINDS, probes


def test_probes_have_every_kind_and_are_the_same_for_a_seed() -> None:
    found = probes(0, 40)
    assert found == probes(0, 40) != probes(1, 40)
    assert {probe.kind for probe in found} == set(KINDS)
    assert all(probe.query and probe.answers for probe in found)
