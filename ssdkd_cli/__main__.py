"""Where the `ssdkd` command begins, and `python -m ssdkd_cli`, which is the same."""

import os
import sys

STDERR = 2


def main() -> int:
    """Run the command line. A Ctrl-C while its modules are still imported ends it as quietly as one later on does."""
    # Where the shell closed a standard stream (`2>&-`), the next file opened would take its number, and what is
    # printed would end up in that file.
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= STDERR:
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)
    try:
        from ssdkd_cli.main import main as run_command_line
    except KeyboardInterrupt:
        return 130  # `ExitCode.INTERRUPTED`, whose module may not be imported yet
    return run_command_line()


if __name__ == "__main__":
    sys.exit(main())
