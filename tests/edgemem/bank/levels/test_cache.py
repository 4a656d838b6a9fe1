"""The cache against a plain model of it."""

from hypothesis import given
from hypothesis import strategies as st

from edgemem.bank.levels.byte_cache import ByteCache

operations = st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 12)), max_size=60)


@given(operations, st.integers(0, 20))
def test_it_never_exceeds_its_limit_and_keeps_the_most_recently_used(steps, limit):
    cache, model = ByteCache(limit), []  # model: (name, size), least recently used first
    for is_put, name, size in steps:
        if is_put:
            cache.put(name, (name, size), size)
            model = [entry for entry in model if entry[0] != name]
            if size <= limit:
                model.append((name, size))
                while sum(entry[1] for entry in model) > limit:
                    model.pop(0)
        else:
            found = next((entry for entry in model if entry[0] == name), None)
            assert cache.get(name) == found
            if found:
                model.remove(found)
                model.append(found)
        assert cache.used == sum(entry[1] for entry in model) <= limit
        assert len(cache) == len(model) and all(entry[0] in cache for entry in model)
