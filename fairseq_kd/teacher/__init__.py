"""Teachers and where their answers come from: a network (`online`), a cache (`cached`), or several networks."""

from fairseq_kd.core.public import lazily

_PLACES = {
    "CachedSignalSource": "cached",
    "Teachers": "ensemble",
    "read_cache": "cached",
    "read_teacher": "ensemble",
}
__all__, __getattr__, __dir__ = lazily(__name__, _PLACES)
