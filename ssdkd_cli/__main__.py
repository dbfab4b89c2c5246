"""`python -m ssdkd_cli` is `ssdkd`."""

import sys

from ssdkd_cli.main import main

if __name__ == "__main__":
    sys.exit(main())
