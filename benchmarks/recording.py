"""What recording activations costs a training: steps with and without it in turn, on this machine.

    python benchmarks/recording.py [--steps 60]

Prints the median seconds of a plain step, of a recorded one, and the cost at the default of one
step in fifty."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from tinysight.config import Config, TrainConfig
from tinysight.device import select_device
from tinysight.models.resnet import ResNet
from tinysight.run import Run
from tinysight.training.log import RunLogger
from tinysight.training.recording import Recorder

LAYERS = (
    "blocks.3.0",
    "head",
)  # the report's Figs. 9 and 10: the last block's output after ReLU, and the scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--size", type=int, default=32)
    arguments = parser.parse_args()
    runtime = select_device()
    generator = torch.Generator().manual_seed(0)
    model = ResNet(200, n=1).to(runtime.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    shape = (arguments.batch_size, 3, arguments.size, arguments.size)
    images = torch.rand(shape, generator=generator).mul(255).to(runtime.device)
    labels = torch.randint(200, (arguments.batch_size,), generator=generator).to(runtime.device)
    times: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        journal = RunLogger(
            Run(folder=Path(folder), config=Config(recipe=""), data_digest="", machine={}),
            step=0,
            log_bytes=0,
        )
        recorder = Recorder(
            model, LAYERS, every=2
        )  # every other step: plain and recorded ones meet the same machine
        for step in range(1, arguments.steps + 1):
            start = time.perf_counter()
            with runtime.autocast():
                with recorder.watch(step):
                    logits = model(images)
                loss = torch.nn.functional.cross_entropy(logits.float(), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            journal.write_distributions(recorder.take())
            loss.detach().cpu()  # waits for the device
            if step > 4:  # the first ones warm up
                times[step % 2 == 0].append(time.perf_counter() - start)
        journal.close()
    plain, recorded = (statistics.median(times[kind]) for kind in (False, True))
    every = TrainConfig().record_every
    print(
        f"{runtime.describe()}: plain step {1000 * plain:.1f} ms, recorded step "
        f"{1000 * recorded:.1f} ms"
    )
    print(f"one in {every}: {100 * (recorded - plain) / (every * plain):+.2f} % of the training")


if __name__ == "__main__":
    main()
