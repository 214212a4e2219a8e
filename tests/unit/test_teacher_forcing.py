import numpy as np
import pytest
import torch

from fairseq_kd.cache.make import CachingOptions, make_cache
from fairseq_kd.cache.reader import CacheReader
from fairseq_kd.inference.opening import open_data
from fairseq_kd.sequence.backend import most_probable
from fairseq_kd.sequence.decode import decode
from fairseq_kd.sequence.decode_options import DecodeOptions

PAD, EOS = 1, 2


class Rows:
    """A signal of given probabilities."""

    def __init__(self, probs):
        self.lprobs = torch.tensor(probs).log()

    def rows(self, start, end):
        return self.lprobs[start:end]


SIGNAL = Rows(
    [
        [0.1, 0.0, 0.2, 0.3, 0.4],  # 4
        [0.1, 0.0, 0.5, 0.4, 0.0],  # EOS, or 3
        [0.1, 0.0, 0.2, 0.7, 0.0],  # 3, but the last of its sentence
        [0.1, 0.6, 0.2, 0.1, 0.0],  # padding, never a token: EOS, or the first of the equal 0 and 3
        [0.0, 0.0, 1.0, 0.0, 0.0],
    ]
)


def test_an_early_eos_is_replaced_by_the_next_best_token_and_the_last_is_eos():
    ids, scores = most_probable(SIGNAL, 5, torch.tensor([2, 4]), EOS, [PAD], cut=False)
    assert ids.tolist() == [4, 3, EOS, 0, EOS]
    assert np.exp(scores) == pytest.approx([0.4, 0.4, 0.2, 0.1, 1.0])


def test_an_early_eos_stands_where_the_sentence_is_to_be_cut():
    ids, _ = most_probable(SIGNAL, 5, torch.tensor([2, 4]), EOS, [PAD], cut=True)
    assert ids.tolist() == [4, EOS, EOS, EOS, EOS]


@pytest.mark.parametrize("early_eos", ["replace", "cut"])
def test_targets_are_the_first_ids_of_the_cache(data_bin, teacher, tmp_path, early_eos):
    options = DecodeOptions(cpu=True, strategy="teacher-forcing", early_eos=early_eos)
    decode(data_bin, str(teacher), tmp_path / "forced", options)
    make_cache(data_bin, teacher, tmp_path / "cache", CachingOptions(top_k=2, cpu=True))
    reader = CacheReader(tmp_path / "cache")
    dataset = open_data(tmp_path / "forced", ("qaa", "qab"), "train").dataset("train")
    gold, differ = open_data(data_bin, ("qaa", "qab"), "train").dataset("train").tgt, 0
    for number in range(len(dataset)):
        first, second = reader.rows(reader.sentence_rows(np.array([number]))).ids[:, :2].T.astype(int)
        early = np.flatnonzero(first[:-1] == EOS)
        if early_eos == "replace":
            first[early] = second[early]
        elif len(early):  # a translation that ends at once is empty: the gold target replaces it
            first = first[: early[0] + 1] if early[0] else gold[number].numpy()
        first[-1] = EOS
        differ += dataset.tgt[number].tolist() != first.tolist()
    assert differ == 0 and len(dataset) == 400
