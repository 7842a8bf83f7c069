"""Start a quiz's server again and again: each line read from the input forks one, and prints its
process id. Forking takes milliseconds where starting Python and its imports takes a second.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial

from tinysight.data.dataset import open_dataset
from tinysight.people.material import Material
from tinysight.people.quiz import Quiz, create_app
from tinysight.people.store import Store
from tinysight.server.http import serving


def main(url: str, port: int, token: str) -> None:
    material = Material(open_dataset("small"), "val", {}, num_images=20)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended children leave nothing
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            store = Store(url, digest=material.dataset.digest, about={})
            make_app = partial(create_app, Quiz(material, store))
            server, listener, _ = serving(make_app, port=port, token=token)
            server.run(sockets=[listener])
            os._exit(0)
        print(child, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
