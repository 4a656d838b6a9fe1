"""The cache against a plain model of it."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from edgemem.bank.cache import ByteCache

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


def test_it_stays_within_its_limit_when_threads_share_it():
    cache = ByteCache(100)

    def work(seed):
        for i in range(2000):
            cache.put((seed * i) % 37, i, i % 11)
            cache.get(i % 37)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.used == sum(size for _, size in cache._values.values()) <= 100
