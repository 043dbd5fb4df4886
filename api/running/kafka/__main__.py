"""`make kafka`: one node in the foreground until Ctrl-C, its data kept for the next time."""

import argparse
import signal
import socket
import sys
from pathlib import Path

import typer

from api.running.kafka.cluster import Cluster, record_classes
from api.running.kafka.jars import find
from api.running.kafka.node import HOST
from api.running.supervisor import ProcessFailure, Supervisor


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m api.running.kafka", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("var/kafka"), help="where the records are kept")
    parser.add_argument("--port", type=int, default=9092, help="0: a free one")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was begun is cleaned up
    try:
        serve(options.data, options.port)
    except ProcessFailure as failure:
        sys.exit(str(failure))
    except KeyboardInterrupt:
        sys.exit(130)


def serve(data: Path, port: int) -> None:
    """Run a node until a signal ends it; ProcessFailure with the way out when it cannot."""
    check_free(port)
    kafka = find(report=say)
    if not kafka.archive.exists():
        say("Recording what makes every later start quick, once.")
        record_classes(kafka)
    cluster = Cluster(kafka, data, port=port or None)
    cluster.format()
    node = cluster.node(1)

    def announced() -> bool:
        if node.poll() is not None:
            raise ProcessFailure(f"Kafka could not start; all of it is in {node.log}:\n{node.last_words()}")
        if not cluster.ready():
            return False
        say(f"Kafka is ready at {cluster.bootstrap}, its data and log in {node.folder}. Ctrl-C ends it.")
        say(f"    export KAFKA_BOOTSTRAP={cluster.bootstrap}")
        return True

    Supervisor([[node]], report=say).run(announced)


def check_free(port: int) -> None:
    """ProcessFailure when somebody listens on the port."""
    with socket.socket() as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            link.bind((HOST, port))
        except OSError as fault:
            raise ProcessFailure(
                f"Port {port} of {HOST} cannot be used ({fault.strerror}): choose another with "
                "`make kafka KAFKA_PORT=PORT`, 0 for any."
            ) from fault


def say(sentence: str) -> None:
    """Tell the user something."""
    typer.echo(sentence)


if __name__ == "__main__":
    main()
