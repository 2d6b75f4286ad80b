"""Names and texts as people and systems write them: one spelling for what looks the same."""

import re
import unicodedata

# soft hyphens, zero-width spaces, byte order marks, marks of direction: they are not seen and mean nothing to a model
UNSEEN = {0xAD, 0x61C, 0x180E, 0x200B, 0x200E, 0x200F, 0x2060, 0xFEFF, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}
_TABLE = dict.fromkeys(UNSEEN) | {
    # the no-break, thin, ideographic … spaces; U+1680 is a visible line
    code: " "
    for code in (0xA0, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000)
}
# joiners mean something within a word or an emoji only
_LOOSE_JOINERS = re.compile("(?:^|(?<=\\s))[\u200c\u200d]+|[\u200c\u200d]+(?=\\s|$)")


def plain(text: str) -> str:
    """`text` in Unicode's composed form (NFC), its spaces plain ones, without characters that cannot be seen.

    Joiners stay within words and emoji: there they are spelling. Spaces at both ends are dropped.
    """
    return _LOOSE_JOINERS.sub("", unicodedata.normalize("NFC", text.translate(_TABLE))).strip(" ")


def is_no_text(character: str) -> bool:
    """Whether it is a control character, a line separator, of private use, or the mark of a broken encoding."""
    return unicodedata.category(character) in ("Cc", "Co", "Zl", "Zp") or character == "\N{REPLACEMENT CHARACTER}"


def same_name(name: str) -> str:
    """What is equal for names that a person or a CLIP takes for the same: letter case, underscores, widths apart."""
    folded = unicodedata.normalize("NFKC", plain(name)).casefold()
    return " ".join(unicodedata.normalize("NFC", folded).replace("_", " ").split())
