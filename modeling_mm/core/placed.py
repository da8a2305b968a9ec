"""Media that stand inside a text (LLaVA): each placeholder of a row becomes a token of what the row reads.

    ids     bos  <image> <image> <image>  what  is  it       one placeholder for each token of a picture
    states  bos     m0      m1      m2    what  is  it       m: the media tokens of the row's context, in their order

R rows, B contexts, T text tokens, S media tokens, D hidden_size.
"""

from dataclasses import dataclass

import torch

from .context_rows import MMRows
from .input_checks import may_read_values


@dataclass
class MMPlaced:
    """The media tokens that rows have placeholders for.

    states: (B, S, D), real ones first. kinds: int64 (B, S), numbers of kinds, -1 padding. rows: which row reads which
    context. names, token_ids: of each kind (by its number) the name and its placeholder's id; None: has none.
    part: which of a context's tokens the placeholders are: "all", the "first" or the "last" ones.
    """

    states: torch.Tensor
    kinds: torch.Tensor
    rows: MMRows
    names: tuple[str, ...]
    token_ids: tuple[int | None, ...]
    part: str = "all"

    def put(self, input_ids: torch.Tensor, embeds: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Embeddings (R, T, D) with media in the place of placeholders.

        Args:
            mask: attention_mask, (R, past + T), 1 = real; what it hides is padding, whatever its id. None: all real.
        Raises: ValueError where a row has other placeholders than its context has tokens.
        """
        self.check(input_ids, mask)
        states, kinds = self.rows.per_row(self.states), self.rows.per_row(self.kinds)
        for number, token_id in enumerate(self.token_ids):
            there, here = kinds == number, placeholders(input_ids, token_id, mask)  # (R, S), (R, T)
            wanted, given = here.sum(1), there.sum(1)
            first = there.to(torch.uint8).argmax(1)  # of a kind all tokens stand together
            if self.part == "last":
                first = first + given - wanted
            places = (here.long().cumsum(1) - 1 + first[:, None]).clamp(min=0, max=states.shape[1] - 1)
            media = states.gather(1, places[..., None].expand(-1, -1, states.shape[2]))
            embeds = torch.where(here[..., None], media.to(embeds.dtype), embeds)
        return embeds

    def check(self, input_ids: torch.Tensor, mask: torch.Tensor | None = None) -> None:
        """Raises ValueError as `put` does; without a look at the values while tracing."""
        if not may_read_values() or input_ids.is_meta:
            return
        kinds = self.rows.per_row(self.kinds)
        for number, (name, token_id) in enumerate(zip(self.names, self.token_ids, strict=True)):
            wanted, given = placeholders(input_ids, token_id, mask).sum(1), (kinds == number).sum(1)
            wrong = wanted != given if self.part == "all" else wanted > given
            if bool(wrong.any()):
                row = int(wrong.to(torch.uint8).argmax())
                hidden = int(placeholders(input_ids, token_id, None)[row].sum() - wanted[row])
                raise _other_count(row, name, token_id, int(wanted[row]), int(given[row]), hidden)


def _other_count(row: int, name: str, token_id: int | None, wanted: int, given: int, hidden: int) -> ValueError:
    if token_id is None:
        return ValueError(f"row {row} reads {name} media, but config.{name}_token_id names no placeholder for them")
    more = f"; attention_mask hides {hidden} more, which count as padding" if hidden else ""
    return ValueError(
        f"row {row} has {wanted} placeholders (config.{name}_token_id={token_id}) for the {given} tokens of its "
        f"{name} media: give one for each token, as the processor does{more}"
    )


def placeholders(input_ids: torch.Tensor, token_id: int | None, mask: torch.Tensor | None) -> torch.Tensor:
    """bool (R, T): the tokens that stand for media; none that a mask (R, past + T) hides."""
    if token_id is None:
        return torch.zeros_like(input_ids, dtype=torch.bool)
    here = input_ids == token_id
    if not torch.is_tensor(mask) or mask.ndim != 2:  # one that is ready made says more than what is padding
        return here
    return here & mask[:, -input_ids.shape[1] :].bool()


def check_no_placeholders(
    input_ids: torch.Tensor | None, token_ids: dict[str, int | None], mask: torch.Tensor | None = None
) -> None:
    """Raises ValueError for placeholders in a text without media."""
    if input_ids is None or not may_read_values() or input_ids.is_meta:
        return
    for name, token_id in token_ids.items():
        found = int(placeholders(input_ids, token_id, mask).sum())
        if found:
            raise ValueError(
                f"input_ids hold {found} placeholders (config.{name}_token_id={token_id}), but no {name} media came "
                "with them"
            )


def answer_types(labels: torch.Tensor) -> torch.Tensor:
    """token_type_ids (R, T) of a prefix language model: 0 in the prompt, which has no labels, 1 from the first on."""
    return (labels != -100).cumsum(1).clamp(max=1)
