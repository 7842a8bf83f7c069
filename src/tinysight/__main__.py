"""Run the command line as `python -m tinysight`, or under torchrun as `torchrun ... -m tinysight
train ...`.
"""

from tinysight.cli import main

if __name__ == "__main__":
    main()
