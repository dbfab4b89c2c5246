"""Where `stages.planning.launch_checks` was."""

from stages.planning.launch_checks import refuse_futile as refuse_futile
