"""Methods, rosetta: the null models beside which shared units are counted, in words."""

NULLS = {"shuffled": "images shuffled", "rotated": "channels of one rotated", "untrained": "one of them untrained"}
KINDS = ("real", *NULLS)
"""The models themselves, and the null models."""
