"""Property tests run without a deadline (the machine may be busy). `--hypothesis-profile=thorough` tries 100,000."""

from hypothesis import HealthCheck, settings

from tests.tiny import tiny_base, tiny_bases, tiny_data, tiny_examples  # noqa: F401 (fixtures)

settings.register_profile("steady", deadline=None, derandomize=True)
settings.register_profile("thorough", deadline=None, max_examples=100_000, suppress_health_check=list(HealthCheck))
if settings.get_current_profile_name() != "thorough":
    settings.load_profile("steady")
