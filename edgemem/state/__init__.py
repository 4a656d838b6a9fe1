"""The state file: what changes on the device, in one SQLite file with one owner."""
