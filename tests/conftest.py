"""What holds for every test."""

from hypothesis import settings

# How long an example takes says more of the machine's load than of the code; benchmarks measure time.
settings.register_profile("lttune", deadline=None)
settings.load_profile("lttune")
