import pytest
from hostile_helpers import expressions
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_kd.core.literals import MAX_ITEMS, NotALiteral, evaluate

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.booleans(), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(VALUES)
@settings(max_examples=300, deadline=None)
def test_a_value_is_read_back_from_its_own_text(value):
    assert repr(evaluate(repr(value))) == repr(value)


@pytest.mark.parametrize(
    "text",
    [
        "[(512, 3)] * 9 + [(1024, 3)] * 4 + [(2048, 1)] * 2",  # fconv's own
        "[(128, 10, 5)] + [(128, 8, 4)] + [(128, 4, 2)] * 3",
        "(0.9, 0.98)",
        "2*[True]",
        "'ab' + 'cd' * 2",
        "-1 + 2.5 * +3 - 4",
        " {'a': [1, None], 2: (1.5, -2)} ",
        "[5, 4] * 0",
        "[5] * -3",
        "1 + 2j",
    ],
)
def test_sums_and_products_are_as_python_has_them(text):
    assert evaluate(text) == eval(text) and repr(evaluate(text)) == repr(eval(text))


@given(expressions("/nowhere/marker"))
@settings(max_examples=500, deadline=None)
def test_whatever_is_no_literal_is_refused(text):
    with pytest.raises(NotALiteral, match="only literals are evaluated"):
        evaluate(text)


@pytest.mark.parametrize("text", ["", " "])
def test_nothing_is_no_literal(text):
    with pytest.raises(NotALiteral, match="SyntaxError"):
        evaluate(text)


@pytest.mark.parametrize("value", [b"1", bytearray(b"1"), 1, None, ["1"], compile("1", "x", "eval"), memoryview(b"1")])
def test_only_text_is_evaluated(value):
    with pytest.raises(NotALiteral, match="not text"):
        evaluate(value)


def test_strings_that_are_subclasses_are_refused():
    class Text(str):
        def strip(self, *_):
            return "1"

    with pytest.raises(NotALiteral):
        evaluate(Text("[]"))


def test_products_are_bounded_before_they_are_made():
    assert evaluate(f"[0] * {MAX_ITEMS // 2 - 1}") == [0] * (MAX_ITEMS // 2 - 1)  # a list is a value, so are its items
    with pytest.raises(NotALiteral, match="more than"):
        evaluate(f"[0] * {MAX_ITEMS}")
