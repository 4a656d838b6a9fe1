"""Records traces, and plays them again: `python -m tracing record|replay [NAME ...]`."""

import argparse
import sys
from collections import Counter

from tracing.files import RECORDED, names
from tracing.replay import replay
from tracing.scenarios import SCENARIOS


def main():
    parser = argparse.ArgumentParser(prog="tracing", description=__doc__)
    parser.add_argument("what", choices=("record", "replay"))
    parser.add_argument("names", nargs="*", help="traces; all without any")
    parser.add_argument("--threads", type=int, default=1, help="of the engine")
    parser.add_argument("--rough", action="store_true", help="compare as on another machine")
    options = parser.parse_args()
    if options.what == "record":
        for name in options.names or SCENARIOS:
            _record(name)
        return 0
    found = {name: _replay(name, options) for name in options.names or names()}
    return 1 if any(one.differences for one in found.values()) else 0


def _record(name):
    calls = SCENARIOS[name]()
    kinds = Counter(k for call in calls for k in call["expect"].get("events", ()))
    size = sum(path.stat().st_size for path in (RECORDED / name).rglob("*") if path.is_file())
    print(f"{name}: {len(calls)} calls, {size:,} bytes, {dict(sorted(kinds.items()))}")


def _replay(name, options):
    found = replay(name, exact=False if options.rough else None, threads=options.threads)
    how = "to the bit" if found.exact else "within the tolerance"
    print(
        f"{name}: {found.calls} of {found.total} calls compared {how}, "
        f"logits up to {found.distance:.3g} away, {len(found.differences)} differences"
    )
    for text in found.differences[:5]:
        print(f"  {text}")
    return found


if __name__ == "__main__":
    sys.exit(main())
