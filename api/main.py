"""`python -m api.main`: the command line, as the supervisor starts it."""

from api.cli import main

main()
