"""The machine around a run: files written whole, full disks, the network, signals, the terminal."""
