"""`--task kd_translation --distilled DATA_BIN2`: fairseq's translation, with a second target for the training subset.

DATA_BIN2 is binarised with the dictionaries of the data-bin and has the same sources in the same order. Its targets
are, for example, a teacher's translations of the sources. Validation and test subsets do not change.
"""

import copy
from dataclasses import dataclass, field
from typing import Optional

from fairseq import utils
from fairseq.models.transformer import TransformerEncoderBase
from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from fairseq_kd.artifacts.data_bin import check_sides, check_trainable
from fairseq_kd.core.errors import KDError, exit_on_user_error
from fairseq_kd.core.hydra_paths import resolve_paths
from fairseq_kd.tasks.distilled import DistilledPairDataset, check_dictionaries, check_folder, check_pairs


@dataclass
class KDTranslationConfig(TranslationConfig):
    """Options of kd_translation, in addition to the options of translation."""

    distilled: Optional[str] = field(
        default=None,
        metadata={
            "help": "data-bin with a distilled target for each training sentence of the data: same dictionaries, same "
            "sources, same order. If the data is a list joined by colons, this must be one too"
        },
    )


@register_task("kd_translation", dataclass=KDTranslationConfig)
class KDTranslationTask(TranslationTask):
    """Translation with sample["distilled"] in the batches of the training subset; see DistilledPairDataset."""

    def __init__(self, cfg: KDTranslationConfig, src_dict, tgt_dict):
        super().__init__(cfg, src_dict, tgt_dict)
        self.update_num = 0  # number of the current update; fairseq does not pass it to criterions
        self.encoder_width = None  # width of the student's encoder; build_model sets it, before the criterion is built

    @classmethod
    def setup_task(cls, cfg: KDTranslationConfig, **kwargs):
        """fairseq calls this. A user error ends the process with status 2."""
        with exit_on_user_error():
            resolve_paths(cfg, ("distilled",))
            if cfg.distilled is None:
                raise KDError(
                    "--task kd_translation needs --distilled DATA_BIN; to train without distilled targets, use --task "
                    "translation"
                )
            if cfg.num_batch_buckets > 0:
                raise KDError(
                    f"--num-batch-buckets {cfg.num_batch_buckets} with --task kd_translation: the buckets would fit "
                    "the gold targets and not the distilled ones; omit it"
                )
        return super().setup_task(cfg, **kwargs)

    def load_dataset(self, split, epoch=1, combine=False, **kwargs):
        """Load a subset; the training subset gets its distilled targets."""
        with exit_on_user_error():
            folders = utils.split_paths(self.cfg.data)
            folder = folders[(epoch - 1) % len(folders) if split == self.cfg.train_subset else 0]
            check_sides(folder, split, (self.cfg.source_lang, self.cfg.target_lang), combine)
        super().load_dataset(split, epoch, combine, **kwargs)
        if split == self.cfg.train_subset:
            with exit_on_user_error():
                self.datasets[split] = self._with_distilled(split, epoch, combine)

    def _with_distilled(self, split, epoch, combine) -> DistilledPairDataset:
        folders = [utils.split_paths(paths) for paths in (self.cfg.data, self.cfg.distilled)]
        if len(folders[0]) != len(folders[1]):
            raise KDError(
                f"--distilled names {len(folders[1])} folders, the data {len(folders[0])}: fairseq trains on one "
                "folder after the other, so each folder needs its distilled counterpart, in the same order"
            )
        of_gold, folder = (paths[(epoch - 1) % len(paths)] for paths in folders)
        languages = (self.cfg.source_lang, self.cfg.target_lang)
        check_folder(of_gold, folder, languages)
        check_dictionaries(folder, languages, (self.src_dict, self.tgt_dict))
        pairs, distilled = self.datasets[split], self._load_as_gold(folder, split, combine)
        check_pairs(pairs, distilled, (of_gold, folder), split, languages)
        return DistilledPairDataset(pairs, distilled.tgt, distilled.tgt_sizes)

    def _load_as_gold(self, folder, split, combine):
        """The subset of another data-bin, loaded with the loader and the options of the gold data-bin."""
        cfg = copy.copy(self.cfg)
        cfg.data, cfg.load_alignments = folder, False
        check_trainable(folder, split, (cfg.source_lang, cfg.target_lang), cfg.dataset_impl, combine)
        other = TranslationTask(cfg, self.src_dict, self.tgt_dict)
        try:
            other.load_dataset(split, combine=combine)
        except FileNotFoundError as error:
            raise KDError(
                f"--distilled {folder} has no subset {split!r} for {cfg.source_lang}-{cfg.target_lang}: binarise the "
                "distilled training set into it"
            ) from error
        return other.dataset(split)

    def build_model(self, cfg, from_checkpoint=False):
        """Build the student; remember the width of its encoder's output if it is one of fairseq's transformers."""
        model = super().build_model(cfg, from_checkpoint)
        encoder = getattr(model, "encoder", None)
        if isinstance(encoder, TransformerEncoderBase):
            self.encoder_width = encoder.embed_tokens.embedding_dim
        return model

    def build_criterion(self, cfg, from_checkpoint=False):
        """Build the criterion. A criterion that does not read the distilled targets is a user error."""
        criterion = super().build_criterion(cfg, from_checkpoint)
        with exit_on_user_error():
            if not getattr(criterion, "reads_distilled", False):
                raise KDError(
                    f"--distilled has no effect with --criterion {cfg._name}: use --criterion kd_hybrid, or --task "
                    "translation without --distilled"
                )
        return criterion

    def train_step(self, sample, model, criterion, optimizer, update_num, ignore_grad=False):
        """One forward and backward pass; stores update_num, which a resumed training restores, for the criterion."""
        self.update_num = update_num
        return super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad)
