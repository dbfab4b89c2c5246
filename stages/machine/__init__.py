"""What runs the networks: the device and what it is good at, how steps are compiled or recorded, the memory."""
