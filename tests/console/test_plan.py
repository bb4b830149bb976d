"""The list of what a sync has to do, which may be longer than memory."""

from __future__ import annotations

from contextlib import closing

from netstorage.console.differences import Difference, Plan


def test_a_plan_of_thousands_is_gone_through_as_often_as_one_likes():
    """As it was found, in its order, whatever its names; two may be at it at once."""
    found = [Difference(f"a/{n}\udcff\n.bin", n, n + 0.5, is_there=n % 2 > 0) for n in range(5000)]
    with closing(Plan()) as plan:
        for difference in found:
            plan.add(difference)
        assert len(plan) == 5000
        assert [*plan] == found
        assert [*zip(plan, plan, strict=True)] == [*zip(found, found, strict=True)]
