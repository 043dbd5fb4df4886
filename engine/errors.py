"""Operating errors: typed, each with what a caller can do about it. Anything else that is raised is a bug."""


class TactError(Exception):
    """An operating error; `status` is the HTTP status that says the same, `kind` its stable name."""

    status = 500
    kind = "error"

    def __init__(self, detail: str, *, pointer: str = "") -> None:
        """Say what is wrong and how to mend it; `pointer` names the field (JSON pointer)."""
        super().__init__(detail)
        self.detail = detail
        self.pointer = pointer


class Invalid(TactError):
    """The request says something that cannot be."""

    status = 422
    kind = "invalid-request"


class NotFound(TactError):
    """What was named does not exist."""

    status = 404
    kind = "not-found"


class Conflict(TactError):
    """What was asked contradicts what has already become of it."""

    status = 409
    kind = "conflict"

    def __init__(
        self, detail: str, *, state: str = "", reasons: object = None, eligible_at: object = None
    ) -> None:
        """Say which state stands against it, and the reasons of a refusal."""
        super().__init__(detail)
        self.state = state
        self.reasons = reasons
        self.eligible_at = eligible_at


class Busy(TactError):
    """Too much is under way on one customer; a retry will do."""

    status = 503
    kind = "busy"


class NotDurable(TactError):
    """Events could not be made durable in time; the same events may be sent again."""

    status = 503
    kind = "events-unavailable"
