"""Typographic quotes and dashes for text that was typed with ASCII ones, and back.

The training books are pure ASCII, a third of the evaluation books is not. A model that never saw a typographic quote pays
dearly for each; so a share of the training books can be given them.
"""
import re

RULES = (
    (re.compile(r"--+"), "—"),
    (re.compile(r'(^|[\s(\[—_])"', re.M), r"\1“"),
    (re.compile(r'"'), "”"),
    (re.compile(r"(^|[\s(\[—_“])'(?!(?:tis|twas|twere|em|till)\b)", re.M), r"\1‘"),
    (re.compile(r"'"), "’"),
)
BACK = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "—": "--", "\xa0": " "})


def typographic(text):
    for pattern, to in RULES:
        text = pattern.sub(to, text)
    return text


def plain(text):
    return text.translate(BACK)


if __name__ == "__main__":
    sample = '"Oh," said he--"it\'s \'quite\' mine." \'Tis so.\n"\'Well?\'"'
    assert typographic(sample) == "“Oh,” said he—“it’s ‘quite’ mine.” ‘Tis so.\n“‘Well?’”", typographic(sample)
    assert plain(typographic(sample)) == sample
