"""Real detectors, for ``acquisition.devices`` of type ``ophyd``."""
