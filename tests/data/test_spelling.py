import pytest

from optogram.data.spelling import plain, same_name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cafe\u0301", "café"),
        ("100\u00a0km of\u3000road", "100 km of road"),
        ("exam\u00adple", "example"),
        ("\ufeffa\u200e dog\u200f\u202c", "a dog"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"),
        ("a \U0001f469\u200d\U0001f52c at work", "a \U0001f469\u200d\U0001f52c at work"),
        ("a\u200d dog\u200c", "a dog"),
        ("\u200d", ""),
        ("two  spaces ", "two  spaces"),
    ],
)
def test_plain_spelling(text, expected):
    assert plain(text) == expected
    assert plain(expected) == expected


def test_names_that_a_person_takes_for_the_same():
    assert len({same_name(name) for name in ("Café_au lait", "cafe\u0301  AU_lait", "ＣＡＦÉ au\u00a0lait")}) == 1
    assert same_name("cat") != same_name("cats")
