"""The teacher cache: format, writer, reader, and the run of a teacher that writes it."""

from fairseq_kd.core.public import lazily

_PLACES = {
    "CacheReader": "reader",
    "cache_teacher": "api",
}
__all__, __getattr__, __dir__ = lazily(__name__, _PLACES)
