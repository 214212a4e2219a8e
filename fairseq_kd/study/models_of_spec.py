"""The models of a spec that has no factors yet, as fairseq-train would build them."""

import functools
from pathlib import Path

from fairseq_kd.core.errors import KDError
from fairseq_kd.study.spec import read_sections
from fairseq_kd.training.arguments import CROSS_ENTROPY, parse_training, training_arguments

SIDES = ("encoder", "decoder")
# options that must be the same in a teacher and in a student that begins with its weights
NUMBERS = ("embed_dim", "ffn_embed_dim", "attention_heads")
FLAGS = ("normalize_before", "learned_pos")


class Models:
    """What a question needs to know of the models: options as fairseq-train parses them, read when they are needed."""

    def __init__(self, path: Path, content: dict, checkpoints: dict):
        """content: the sections of a spec, without factors. checkpoints: label -> path of the teachers that exist;
        empty if the study trains its teacher."""
        self.path, self.content, self.checkpoints = path, content, checkpoints

    @functools.cached_property
    def student(self):
        """The options of the student's model. Raises KDError as the checks of a spec do."""
        return _parsed(self.path, read_sections(self.path, self.content), "student")

    @functools.cached_property
    def teacher(self):
        """The options of the (first) teacher's model. Raises KDError for a checkpoint that cannot be read."""
        if not self.checkpoints:
            return _parsed(self.path, read_sections(self.path, self.content), "teacher")
        from fairseq_kd.inference.checkpoint import read_checkpoint

        return read_checkpoint(next(iter(self.checkpoints.values())))["cfg"].model


def _parsed(path: Path, sections: dict, who: str):
    options = sections["common"] | sections[who] | {"max-update": 1, "seed": 1} | CROSS_ENTROPY
    languages = (sections["data"][f"{side}-lang"] for side in ("source", "target"))
    return parse_training(f"{path}: {who}", training_arguments("data-bin", *languages, options, user_dir="@user-dir"))


def shaped_like(teacher, common: dict) -> dict:
    """Options of a transformer that can begin with weights of the teacher: as wide, with half of its layers.

    common: options of all trainings; `false` takes one out. Raises KDError for a teacher that is no transformer.
    """
    if getattr(teacher, "encoder_ffn_embed_dim", None) is None:
        raise KDError("only a transformer has layers that a student can begin with: choose another question or teacher")
    options = {"arch": "transformer"}
    for side in SIDES:
        options[f"{side}-layers"] = max(1, getattr(teacher, f"{side}_layers") // 2)
        options |= {f"{side}-{name.replace('_', '-')}": getattr(teacher, f"{side}_{name}") for name in NUMBERS}
        options |= {f"{side}-{name.replace('_', '-')}": bool(getattr(teacher, f"{side}_{name}")) for name in FLAGS}
    options["activation-fn"] = str(teacher.activation_fn)
    options["share-all-embeddings"] = bool(teacher.share_all_embeddings)
    options["share-decoder-input-output-embed"] = bool(teacher.share_decoder_input_output_embed)
    return {name: value for name, value in options.items() if value is not False or name in common}
