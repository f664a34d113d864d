"""Results of somebody else's method, from their machine to a board: packed, checked as hostile, added, decided upon.

``submission.json`` is `form`, the zip around it `archive`, what its author runs `packing`, what a maintainer runs
`checking` (records are read by `confined`, a process with limits), `adding` joins it to a board, and `decisions` is the
log that says where each row stands.
"""

from __future__ import annotations

from fedbench.errors import FedBenchError


class SubmissionError(FedBenchError):
    """A submission is not what it must be, or a board's rules do not allow it.

    Parameters
    ----------
    what : str
        The member, field or rule, and what is wrong.
    mend : str
        What to do about it.
    """

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(f"{what}; {mend}")
        self.what, self.mend = what, mend
