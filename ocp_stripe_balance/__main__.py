"""
python -m ocp_stripe_balance is the command line.
"""

import sys

from ocp_stripe_balance.cli import main

if __name__ == "__main__":
    sys.exit(main())
