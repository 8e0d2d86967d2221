from django.apps import AppConfig


class RatchetConfig(AppConfig):
    """Only there so that Django finds the system checks."""

    name = "config"
    verbose_name = "Ratchet"

    def ready(self) -> None:
        from config import checks  # noqa: F401 - registers itself when imported
