"""`python -m api.main`: the command line, as the supervisor starts it."""

import signal


def main() -> None:
    """Run the command line; Ctrl-C while its modules still load ends it without a word."""
    loading = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if loading:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from api.cli.main import main as run  # noqa: PLC0415  # about a second, in which Ctrl-C would print a traceback

    if loading:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
