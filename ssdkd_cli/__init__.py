"""How people drive a run: the `ssdkd` command line."""
