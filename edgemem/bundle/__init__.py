"""The bundle: the immutable folder that is shipped to a device."""
