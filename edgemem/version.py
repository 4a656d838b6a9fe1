"""The version of EdgeMem."""

VERSION = "0.1.0"
