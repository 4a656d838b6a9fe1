"""Every format by name."""

from fuzzing.block_import import ImportFormat
from fuzzing.bundle import BundleFormat
from fuzzing.graph import GraphFormat
from fuzzing.level import LevelFormat
from fuzzing.state import StateFormat
from fuzzing.stream import StreamFormat

MADE = (BundleFormat, GraphFormat, StateFormat, LevelFormat, ImportFormat, StreamFormat)
FORMATS = {made.name: made for made in MADE}
