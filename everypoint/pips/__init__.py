"""PIPs++: the network, its driver for long videos, its training and its data."""
