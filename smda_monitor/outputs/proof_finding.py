"""What a proof shows, in a sentence: one wording for the console and the page."""

from __future__ import annotations


def finding_sentence(finding: str, planted: bool) -> str:
    """Of a `records.proof.Finding`; `planted`: whether the data name planted rows, whose effect can be recovered."""
    what = "the part recovered" if planted else "the change of every kind of prompt"
    if finding == "shown":
        return "An effect of the flagged rows is shown: taking them out does what taking out random rows does not."
    if finding == "nothing":
        return f"No effect of the flagged rows is shown: the interval of {what} reaches 0."
    if finding == "as random":
        return "No effect of the flagged rows is shown beyond that of random removal: the two cannot be told apart."
    return "No effect of the flagged rows is shown: there is no interval to judge by."
