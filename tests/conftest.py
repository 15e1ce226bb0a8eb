"""What holds for all tests."""

import pytest
from hypothesis import HealthCheck, settings

from nlsq_sklearn._engine import compiled_steps, kernel, programs

# How long an example takes depends on the machine, and on what else it does: no promise of ours.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture
def evaluations(monkeypatch):
    """Return a list that grows with each call that evaluates a model in order to fit it."""
    calls = []

    def counted(key, *arguments, **options):
        calls.append(key)
        return programs.run_program(key, *arguments, **options)

    for module in (kernel, compiled_steps):
        monkeypatch.setattr(module, "run_program", counted)
    return calls
