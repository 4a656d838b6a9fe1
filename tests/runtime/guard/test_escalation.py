"""The ladder: a rung up at every alarm, and back to the ground after calm."""

from hypothesis import given
from hypothesis import strategies as st

from edgemem.runtime.guard.escalation import CALM, MOST_RELAPSES, Escalation, Rung


def climbed(alarms):
    escalation, rungs = Escalation(), []
    for alarm in alarms:
        escalation = escalation.after(alarm)
        rungs.append(escalation.rung)
    return rungs


def test_every_alarm_is_a_rung_and_the_last_one_stays():
    assert climbed([True] * 6) == [1, 2, 3, 4, 4, 4]


def test_calm_leads_back_to_the_ground_the_longer_the_higher():
    needed = [checks_until_calm(Escalation(rung)) for rung in list(Rung)[1:]]
    assert needed == [CALM[rung] for rung in list(Rung)[1:]] == sorted(needed)


def checks_until_calm(escalation):
    checks = 0
    while escalation.rung is not Rung.LEARN:
        escalation, checks = escalation.after(False), checks + 1
    return checks


def test_who_relapses_rests_longer_each_time_and_calm_makes_up_for_it():
    escalation, rests = Escalation(), []
    for _ in range(8):
        escalation = escalation.after(True).after(True)
        rests.append(checks_until_calm(escalation))
        while escalation.rung is not Rung.LEARN:
            escalation = escalation.after(False)
    assert rests == [2, 4, 8, 16, 32, 64, 128, 256]
    for _ in range(MOST_RELAPSES * CALM[Rung.LEARN]):
        escalation = escalation.after(False)
    assert escalation == Escalation()


def test_an_alarm_begins_the_count_of_calm_checks_anew():
    assert climbed([True, True, False, True, False, True]) == [1, 2, 2, 3, 3, 4]


@given(st.lists(st.booleans(), max_size=40))
def test_an_alarm_never_leads_down_and_calm_never_up(alarms):
    before = Rung.LEARN
    for alarm, rung in zip(alarms, climbed(alarms), strict=True):
        assert rung == min(before + 1, Rung.FROZEN) if alarm else rung in (before, Rung.LEARN)
        before = rung
