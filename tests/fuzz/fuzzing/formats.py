"""Every format by name."""

from fuzzing.state import StateFormat

FORMATS = {made.name: made for made in (StateFormat,)}
