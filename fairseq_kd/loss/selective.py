"""Selective KD: the teacher's term only for the tokens that the student finds hard.

Source: Wang et al., ACL 2021 (arXiv 2105.12967), batch-level and global-level selection. There the other tokens keep
their cross-entropy, and so they do here: α of a token that is not selected is 0.
"""

import torch

UNIT = 2**16  # values are kept as integers, in 1/65,536 nat: a module's integers stay as they are under .half()


def hardest(nll: torch.Tensor, rate: float) -> torch.Tensor:
    """Which of the N tokens are among the share `rate` (0..1] with the largest nll (N,); at least one is. Bool (N,)."""
    return nll >= _threshold(nll, rate) if len(nll) else torch.zeros_like(nll, dtype=torch.bool)


def _threshold(nll: torch.Tensor, rate: float) -> torch.Tensor:
    count = max(1, round(rate * len(nll)))
    return nll.topk(count, sorted=False).values.min()


class RecentTokens(torch.nn.Module):
    """The nll of the last `size` training tokens: the global-level threshold is taken over them.

    A module, so that fairseq saves it with the criterion and resume finds the same threshold. fairseq saves the state
    of a criterion only if it has a parameter that can be trained, hence `anchor`, which nothing moves. Each process of
    a distributed training has its own recent tokens; the first one's are saved, and all go on from them.
    """

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("values", torch.zeros(size, dtype=torch.int32))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.anchor = torch.nn.Parameter(torch.zeros(1))

    @torch.no_grad()
    def push(self, nll: torch.Tensor) -> None:
        """Append the nll (N,) of a batch, but what is not finite; the oldest values fall out."""
        nll = nll[nll.isfinite()]
        size, new = self.values.numel(), (nll.detach().float() * UNIT).round().int()[-self.values.numel() :]
        places = (self.seen + torch.arange(len(new), device=nll.device)) % size
        self.values[places] = new
        self.seen += len(new)

    def hardest(self, nll: torch.Tensor, rate: float) -> torch.Tensor:
        """Which of the N tokens of a batch are as hard as the hardest share `rate` of the recent ones. Bool (N,)."""
        if len(nll) == 0 or int(self.seen) == 0:
            return torch.zeros_like(nll, dtype=torch.bool)
        known = self.values[: min(int(self.seen), self.values.numel())]
        return nll.detach() * UNIT >= _threshold(known.float(), rate) - 0.5
