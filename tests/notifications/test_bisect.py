"""All, then halves, then one."""

import pytest
from django.db import IntegrityError, OperationalError

from notifications import bisect


class TestFailures:
    def test_does_it_once_where_nothing_fails(self):
        done = []

        assert list(bisect.failures(done.append, [1, 2, 3], what="rows")) == []
        assert done == [[1, 2, 3]]

    def test_finds_the_ones_that_fail_and_does_all_the_others_once(self):
        done: list[int] = []

        def act(some):
            if poison := {3, 6} & set(some):
                raise ValueError(f"poison {sorted(poison)}")
            done.extend(some)

        failed = list(bisect.failures(act, [1, 2, 3, 4, 5, 6, 7], what="rows"))

        assert [item for item, _ in failed] == [3, 6]
        assert [str(error) for _, error in failed] == ["poison [3]", "poison [6]"]
        assert done == [1, 2, 4, 5, 7]

    def test_tells_of_a_failure_before_it_goes_on_with_the_others(self):
        done = []

        def act(some):
            done.append(list(some))
            if 1 in some:
                raise ValueError("poison")

        told = bisect.failures(act, [1, 2], what="rows")

        assert next(told)[0] == 1
        assert done == [[1, 2], [1]]

    def test_does_not_do_again_what_was_tried(self):
        done = []

        failed = list(
            bisect.failures(done.append, [1, 2], what="rows", tried=IntegrityError("together"))
        )

        assert failed == []
        assert done == [[1], [2]]

    @pytest.mark.parametrize("items", [[1], [1, 2]])
    def test_takes_the_databases_trouble_for_no_items_fault(self, items):
        def act(_some):
            raise OperationalError("the server closed the connection")

        with pytest.raises(OperationalError):
            list(bisect.failures(act, items, what="rows"))

    def test_does_nothing_with_nothing(self):
        def act(_some):
            raise AssertionError("nothing to do")

        assert list(bisect.failures(act, [], what="rows")) == []
