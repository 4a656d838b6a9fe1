"""One harness for adaptation methods: models, streams, methods, measures, tables."""
