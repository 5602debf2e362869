"""Why a file, or one row of it, cannot be imported, and what to do about it."""


class FileRefused(Exception):
    """The file cannot be imported; nothing of it was. Says why and how to fix it."""


class RowsRejected(FileRefused):
    """Rows were rejected where none may be (--strict), or all of them were. Nothing was imported."""


class RowRejected(Exception):
    """One row cannot be billed as it stands; the others can."""

    def __init__(self, *, field: str, value: str, problem: str, fix: str) -> None:
        super().__init__(f"{field} {value!r}: {problem}. {fix}")
        self.field = field
        self.value = value
        self.problem = problem
        self.fix = fix
