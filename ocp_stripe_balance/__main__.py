"""
The program, also as python -m ocp_stripe_balance.
"""

import signal
import sys


def main() -> int:
    """
    Run the command line; Ctrl-C while that is still being imported ends the program without a word.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from ocp_stripe_balance.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
