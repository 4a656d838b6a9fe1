"""Every format by name."""

from fuzzing.kinds.block_import import ImportFormat
from fuzzing.kinds.bundle import BundleFormat
from fuzzing.kinds.graph import GraphFormat
from fuzzing.kinds.level import LevelFormat
from fuzzing.kinds.state import StateFormat
from fuzzing.kinds.stream import StreamFormat

MADE = (BundleFormat, GraphFormat, StateFormat, LevelFormat, ImportFormat, StreamFormat)
FORMATS = {made.name: made for made in MADE}
