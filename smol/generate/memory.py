"""What was read of a text, for the next call that begins as it does."""

import weakref

import torch
from torch import Tensor

from smol.model import KVCache, SmolLM2


class Memory:
    """Give the same one to each turn of a conversation, and only what is new is read.

    `chat(…, memory=memory)`, and so with `stream` and `generate_steps`. It keeps the keys and
    values of the last call's text. The next text may begin with all of it or with less, as where
    old turns were cut away; what it has in common with the last one is not read again. Another
    model, or weights that have been trained since, find nothing. It costs the cache's size again
    for the length of the text.
    """

    def __init__(self):
        self.ids: list[int] = []
        self.model = self.weights = self.k = self.v = None

    def recall(self, model: SmolLM2, ids: Tensor, cache: KVCache) -> None:
        """Fills the empty cache with what is known of `ids` (1, T), but for the last token, whose
        logits are wanted."""
        if self.model is None or self.model() is not model or self.weights != state(model):
            return
        text = ids[0, :-1].tolist()
        pairs = enumerate(zip(text, self.ids, strict=False))
        n = next((i for i, (new, old) in pairs if new != old), min(len(text), len(self.ids)))
        cache.k[:, :, :, :n], cache.v[:, :, :, :n] = self.k[..., :n, :], self.v[..., :n, :]
        cache.length = n

    def keep(self, model: SmolLM2, ids: Tensor, cache: KVCache) -> None:
        """Notes what the cache holds of `ids` (1, T)."""
        n = min(ids.size(1), cache.length)
        self.ids, self.model, self.weights = ids[0, :n].tolist(), weakref.ref(model), state(model)
        self.k, self.v = cache.k[:, :, :, :n].clone(), cache.v[:, :, :, :n].clone()

    def forget(self) -> None:
        self.__init__()


def state(model: SmolLM2) -> list[tuple]:
    """Where a model's weights are, and how often each was changed in place."""
    versions = (0 if torch.is_inference(p) else p._version for p in model.parameters())
    places = ((p.data_ptr(), p.dtype, p.device) for p in model.parameters())
    return list(zip(places, versions, strict=True))
