"""The machine around a run: complete files, full disks, the network, signals, the terminal."""
