"""Where kd_word's signal comes from, by its options."""

from fairseq_kd.teacher.cached import CachedSignalSource
from fairseq_kd.teacher.online import OnlineSignalSource


def signal_sources(cfg, task):
    """(source for training, source for validation); None where no signal is asked for.

    Raises KDError when a cache cannot be used.
    """
    online = None
    if cfg.teacher is not None and (cfg.teacher_cache is None or cfg.kd_valid):
        online = OnlineSignalSource(
            cfg.teacher,
            task,
            data=cfg.teacher_data,
            dtype=str(cfg.teacher_dtype),
            trust=cfg.trust_checkpoint is not None,
            top_k=cfg.kd_top_k,
        )
    training = online
    if cfg.teacher_cache is not None:
        training = CachedSignalSource(
            cfg.teacher_cache,
            task,
            temperature=cfg.teacher_temperature,
            stated_teacher=cfg.teacher,
            subset=getattr(task.cfg, "train_subset", "train"),
        )
    return training, online if cfg.kd_valid else None
