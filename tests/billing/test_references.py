"""Payment references: what ISO 11649 makes of an account's number, and what a payer makes of that."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.references import WrongCheckDigits, account_ids_in, reference_of

ACCOUNTS = st.integers(min_value=1, max_value=10**12 - 1)


class TestReferenceOf:
    def test_has_the_check_digits_of_the_standard(self):
        # ISO 7064 MOD 97-10: moved behind the rest and read as a number, it leaves 1.
        compact = reference_of(17).replace(" ", "")
        as_number = int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4]))

        assert as_number % 97 == 1
        assert reference_of(17).endswith("0000 0000 0017")

    @given(ACCOUNTS)
    def test_is_found_again_however_it_is_written(self, account):
        reference = reference_of(account)
        text = f"inv. october, ref:{reference.lower().replace(' ', '-')}/thanks"

        assert account_ids_in(reference) == account_ids_in(text) == {account}

    @given(ACCOUNTS, st.integers(2, 15), st.integers(1, 9))
    def test_a_wrong_digit_is_never_another_account(self, account, place, step):
        digits = list(reference_of(account).replace(" ", ""))
        digits[place] = str((int(digits[place]) + step) % 10)

        with pytest.raises(WrongCheckDigits):
            account_ids_in("".join(digits))

    @given(ACCOUNTS, st.integers(2, 14))
    def test_nor_are_two_that_were_swapped(self, account, place):
        digits = list(reference_of(account).replace(" ", ""))
        digits[place], digits[place + 1] = digits[place + 1], digits[place]
        swapped = "".join(digits)

        if swapped == reference_of(account).replace(" ", ""):
            assert account_ids_in(swapped) == {account}
        else:
            with pytest.raises(WrongCheckDigits):
                account_ids_in(swapped)


@pytest.mark.parametrize("text", ["", "RF", "thanks for October", "RF18 5390"])
def test_no_reference_of_ours_is_none(text):
    assert account_ids_in(text) == set()
