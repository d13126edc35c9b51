"""From raw text to a trained, evaluated Transformer: the application that introduces the parts."""

__version__ = "0.4.0"

__all__: list[str] = []
