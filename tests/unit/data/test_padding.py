"""Rows of different lengths as one batch, on either side."""

from hypothesis import given
from hypothesis import strategies as st

from prl.data.tokens import left_pad, right_pad

ids = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=7), min_size=1, max_size=4)


@given(ids)
def test_the_mask_is_on_what_was_there_and_the_rest_is_padding(rows: list[list[int]]) -> None:
    for pad, side in ((left_pad, -1), (right_pad, 1)):
        found, mask = pad(rows, 0)
        assert [each[here].tolist() for each, here in zip(found, mask, strict=True)] == rows
        assert (found == 0).equal(~mask)
        assert mask.equal(mask.sort(dim=1, descending=side == 1, stable=True).values)  # on its side
