"""Room models: what a denoiser is told of a text: the states of a text tower, token by token, before pooling."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from optogram.errors import DataError
from optogram.models.loading.clip_folders import Clip


@runtime_checkable
class Texts(Protocol):
    """A text tower: prompts to states, each prompt for itself. The empty prompt stands for no condition."""

    @property
    def width(self) -> int:
        """Of a state."""
        ...

    def states(self, prompts: Sequence[str]) -> Float[Tensor, "prompt token width"]:
        """A row a prompt."""
        ...


@dataclass(frozen=True)
class ClipTexts:
    """The text tower of a CLIP of ours. Behind a text's end its last state is repeated, the one that CLIP uses."""

    clip: Clip

    @property
    def width(self) -> int:
        """Of a state."""
        return int(self._tower.ln_final.weight.shape[0])

    @property
    def _tower(self) -> Any:
        return self.clip.model

    @torch.no_grad()
    def states(self, prompts: Sequence[str]) -> Float[Tensor, "prompt token width"]:
        """Float32. Raises DataError for a prompt that is too long, or blank but not empty."""
        check_prompts(prompts)
        tower = self._tower
        tokens = self.clip.tokenize(list(prompts)).to(self.clip.device)
        x = tower.token_embedding(tokens) + tower.positional_embedding
        found = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask)).float()
        # open_clip's own way to find the end: no token has a larger number
        until = torch.minimum(torch.arange(tokens.shape[1], device=tokens.device), tokens.argmax(1)[:, None])
        return found.gather(1, until[:, :, None].expand_as(found))


@dataclass(frozen=True)
class TransformersTexts:
    """A text encoder and tokenizer of transformers, as Stable Diffusion's: last hidden states, padded to its length."""

    encoder: Any
    tokenizer: Any

    @property
    def width(self) -> int:
        """Of a state."""
        return int(self.encoder.config.hidden_size)

    @torch.no_grad()
    def states(self, prompts: Sequence[str]) -> Float[Tensor, "prompt token width"]:
        """Float32. Raises DataError for a prompt that is too long, or blank but not empty."""
        check_prompts(prompts)
        most = int(self.tokenizer.model_max_length)
        read = self.tokenizer(list(prompts), padding="max_length", max_length=most, return_tensors=None)["input_ids"]
        for prompt, tokens in zip(prompts, read, strict=True):
            if len(tokens) > most:
                raise DataError(
                    f"prompt {prompt!r} has {len(tokens)} tokens, but this model reads at most {most}. Shorten it."
                )
        where = next(self.encoder.parameters()).device
        return self.encoder(torch.tensor(read, device=where)).last_hidden_state.float()


def check_prompts(prompts: Sequence[str]) -> None:
    """Raises DataError for a prompt of blanks, which is a slip more often than the wish for no condition."""
    for place, prompt in enumerate(prompts):
        if prompt and not prompt.strip():
            raise DataError(f"prompt {place} holds blanks only. Write what to draw, or leave it out.")
