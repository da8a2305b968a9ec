"""MMPreTrainedModel: what every MM class shares: flags, initial weights, strict loading, freezing.

Loading and saving import what they need when they are called: a model that only runs reads none of it.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import GENERATION_CONFIG_NAME

from ...configuration.auto_map import register_for_auto_class
from ...configuration.base import nearest
from ...configuration.mm import MMConfig
from ...configuration.special_ids import wrong_ids
from .attention import MMNormFromOne, default_implementation

# name -> the parameters that belong to it, after the prefix of the base model. Cross-attention: see `_belongs`.
PARTS = {
    "vision": r"vision_tower\.",
    "audio": r"audio_tower\.",
    "text": r"language_model\.",
    "text_encoder": r"text_encoder\.",
    "projector": r"(vision|audio)_projector\.|(image|frame|clip)_slots\.|frame_layers\.|modality_embedding\.",
    "resampler": r"(vision|audio)_resampler\.",
    "cross_attention": r"(language_model|text_encoder)\.layers\.\d+\.cross_attn",
    "fusion": r"fusion\.",
    "embeddings": r"(language_model|text_encoder)\.embed_",
    "lm_head": r"lm_head",
}


class MMPreTrainedModel(PreTrainedModel):
    """Base of all MM models and towers."""

    config: MMConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    # What the model was built for; towers name their own.
    input_modalities: Any = property(lambda self: [*(self.config.modalities or []), "text"])
    supports_gradient_checkpointing = True
    _no_split_modules = ["MMLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flex_attn = True
    # Transformers' flash path drops query rows under padded cross-attention keys, so it is not offered.
    _supports_flash_attn = False
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    # Modules beyond the base model -> the pretraining losses for which each exists, none: always. None: a tower.
    head_modules: Any = None
    # Class name -> `head_modules` of the class. A key of a checkpoint is a head key if its first part is here.
    head_modules_of: ClassVar[dict[str, Mapping[str, tuple[str, ...]]]] = {}

    register_for_auto_class = classmethod(register_for_auto_class)  # pyright: ignore[reportAssignmentType]

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if cls.head_modules is not None:
            cls.head_modules_of[cls.__name__] = cls.head_modules

    def __init__(self, config, *args, **kwargs):
        config.validate_architecture()  # again, for fields may have been set since it was made
        super().__init__(config, *args, **kwargs)

    @property
    def device(self) -> torch.device:
        """Where inputs go. Weights that accelerate keeps elsewhere are on the meta device until they are read."""
        found = super().device
        if found.type == "meta":
            hooks = (getattr(module, "_hf_hook", None) for module in self.modules())
            places = (getattr(hook, "execution_device", None) for hook in hooks)
            found = next((torch.device(place) for place in places if place is not None), found)
        return found

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        for name in ("cls_token", "register_tokens", "mask_token", "probe", "latents", "image_newline"):
            token = module._parameters.get(name)
            if token is not None:
                init.normal_(token, std=self.config.initializer_range)
        weight, std = module._parameters.get("weight"), getattr(module, "initial_std", None)
        if weight is not None and std is not None:
            init.normal_(weight, std=std)
        if isinstance(module, MMNormFromOne):
            init.zeros_(module.weight)
        for name in ("logit_scale", "text_logit_scale", "logit_bias"):
            number = module._parameters.get(name)
            if number is not None:
                init.constant_(number, getattr(self.config, f"{name.removeprefix('text_')}_init_value"))
        # A closed gate does not change a pretrained decoder; a gated fusion starts from equal shares.
        for name in ("cross_attn_gate", "self_attn_gate", "mlp_gate", "gate", "gate_weight", "gate_bias"):
            gate = module._parameters.get(name)
            if gate is not None:
                init.zeros_(gate)

    def get_correct_attn_implementation(self, requested_attention: str | None, is_init_check: bool = False) -> str:
        """As in Transformers; where none is asked for, mm_triton on a machine with an NVIDIA GPU and Triton."""
        if requested_attention is None:
            requested_attention = default_implementation()
        return super().get_correct_attn_implementation(requested_attention, is_init_check)

    def freeze_again(self) -> None:
        """After loading: freezes the parameters that the class froze when it was built; Transformers thaws them."""
        frozen = vars(self).pop("_frozen_when_built", ())
        for name, parameter in self.named_parameters():
            if name in frozen:
                parameter.requires_grad_(False)

    def after_loading(self, info: Mapping[str, Iterable]) -> None:
        """Initialises weights that a checkpoint may lack from those that it has; `info` is that of loading."""

    def pooled_only(self) -> list[nn.Module]:
        """The parts of a tower that pooler_output depends on and last_hidden_state does not."""
        return []

    def freeze(self, *parts: str) -> Self:
        """Stops the training of the named parts: vision, audio, text (the decoder), text_encoder, projector (with the
        item numbers and the modality embedding), resampler, cross_attention (of the text stacks, and whole layers of
        [cross, mlp]), fusion, embeddings, lm_head, or a glob over the names of parameters. Returns the model.

        A tied lm_head.weight is the decoder's embedding, and goes by that name.
        """
        for _, parameter, is_named in named_parts(self, parts):
            if is_named:
                parameter.requires_grad_(False)
        return self

    def freeze_except(self, *parts: str) -> Self:
        """Freezes everything except the named parts; parts that are already frozen stay so. Returns the model."""
        for _, parameter, is_named in named_parts(self, parts):
            if not is_named:
                parameter.requires_grad_(False)
        return self

    @staticmethod
    def _finalize_model_loading(model, load_config, loading_info):
        """Keeps the loading report of the model itself: if an adapter follows, Transformers reports only that."""
        found = PreTrainedModel._finalize_model_loading(model, load_config, loading_info)
        found.unexpected_keys |= vars(model).pop("_of_other_heads", set())
        model._found_in_checkpoint = found.to_dict()
        return found

    def _adjust_missing_and_unexpected_keys(self, loading_info) -> None:
        """As in Transformers; a checkpoint of several heads is no surprise to a class that uses some of them, so the
        printed report leaves the others out."""
        from .loading import of_other_heads

        super()._adjust_missing_and_unexpected_keys(loading_info)
        self._of_other_heads = of_other_heads(self, loading_info.unexpected_keys)
        loading_info.unexpected_keys -= self._of_other_heads

    @staticmethod
    def _load_pretrained_model(model, state_dict, checkpoint_files, load_config, expected_keys=None):
        """Names a broken file, and raises an error for tensors of another kind than the model's (not under
        quantization, whose files hold integers)."""
        from safetensors import SafetensorError

        from ...weights.files import broken, check_dtypes

        files = [Path(file) for file in checkpoint_files or () if state_dict is None]
        files = [file for file in files if file.suffix in (".safetensors", ".bin")]
        model._read_from = [*getattr(model, "_read_from", ()), *files]
        is_adapter = expected_keys is not None
        if not is_adapter:
            frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
            vars(model)["_frozen_when_built"] = frozen
        if load_config.hf_quantizer is None:
            held = None if is_adapter else {name: value.dtype for name, value in model.state_dict().items()}
            check_dtypes(files, held, model.base_model_prefix)
        try:
            return PreTrainedModel._load_pretrained_model(
                model, state_dict, checkpoint_files, load_config, expected_keys
            )
        except SafetensorError as error:
            raise broken(files[0], error) from error

    def adjust_generation_fn(self, generation_config, from_auto_class, from_pipeline, source, **options) -> None:
        """As in Transformers, but a generation_config.json that is no JSON object is an error, not set aside."""
        from ...weights.files import CheckpointError
        from .loading import check_json_object

        if generation_config is None and source is not None:
            check_json_object(source, GENERATION_CONFIG_NAME, options)
        load: Any = super().adjust_generation_fn  # pyright: ignore[reportAttributeAccessIssue]: of those that generate
        try:
            load(generation_config, from_auto_class, from_pipeline, source, **options)
            faults = wrong_ids(self.generation_config)
            if faults:
                raise TypeError("; ".join(faults))
        except (TypeError, AttributeError, LookupError, OverflowError) as error:
            if generation_config is not None:
                raise
            raise CheckpointError(f"{GENERATION_CONFIG_NAME} of {str(source)!r} cannot be used: {error}") from error

    @classmethod
    def from_pretrained(
        cls,
        *args,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        verify_hashes: bool = False,
        **kwargs,
    ) -> Any:
        """As in Transformers, and strict: see `check_loaded` for what raises an error and what is only reported, and
        `check_source` for the checks before loading.

        With output_loading_info=True missing and unknown keys are in the info and raise no error; also with
        state_dict={}, which asks for initial values. Parameters that the class freezes when it is built (parts that
        nothing reads) are frozen again after loading. The folder of an adapter (PEFT) loads its base model and then
        the adapter; both are checked.

        If the weights have a manifest.json, their sizes are compared with it; with verify_hashes=True their
        SHA-256 too (the files are read from the disk once, for both). Without a manifest verify_hashes=True is an
        error, except for files of the Hub that the cache keeps by their SHA-256.
        """
        from .loading import check_loaded, check_source, naming_sizes, note_new_heads

        source = args[0] if args else kwargs.get("pretrained_model_name_or_path")
        check_source(source, kwargs, verify_hashes)
        how: dict[str, Any] = {"ignore_mismatched_sizes": True, "output_loading_info": True}
        with naming_sizes(source):
            loaded: Any = super().from_pretrained(*args, **how, **kwargs)
        model, info = loaded
        is_told = output_loading_info or kwargs.get("state_dict") == {}
        own, files = vars(model).pop("_found_in_checkpoint", info), vars(model).pop("_read_from", [])
        if own != info:  # an adapter's; the model's own are not reported
            check_loaded(model, own, ignore_mismatched_sizes, files)
        check_loaded(model, info, ignore_mismatched_sizes, files, keys=not is_told)
        model.after_loading(own)
        model.freeze_again()
        note_new_heads(model)
        return (model, info) if output_loading_info else model

    def check_trained(self) -> None:
        """Raises: CheckpointError where a head was not in the checkpoint and is still random."""
        from .loading import check_trained

        check_trained(self)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        *args,
        variant: str | None = None,
        distributed_checkpoint: bool = False,
        **kwargs,
    ) -> None:
        """As in Transformers, but the saved files replace the weights in the folder: shards replace a single file and
        the reverse, pickles, and a whole model an adapter. A variant replaces that variant.

        Raises: NotADirectoryError for the path of a file; ValueError for an adapter over the folder of a whole model
            that is not its base.

        Where Transformers' Trainer saves in order to push, older weights in the repository are deleted first.
        """
        from ...weights.files import check_place, remove_stale

        folder, base = check_place(save_directory, adapter_base(self)), adapter_base(self)
        super().save_pretrained(
            save_directory,
            is_main_process,
            *args,
            variant=variant,
            distributed_checkpoint=distributed_checkpoint,
            **kwargs,
        )
        if self.should_save_on_this_rank(is_main_process) and not distributed_checkpoint:
            remove_stale(folder, variant, base is not None)
            from ...weights.manifest import remove_outdated
            from ...weights.upload import make_room_for_push

            remove_outdated(folder)
            make_room_for_push(folder, base is not None)

    def _upload_modified_files(
        self, working_dir, repo_id, files_timestamps, commit_message=None, token=None, create_pr=False,
        revision=None, commit_description=None,
    ):  # fmt: skip
        """What save_pretrained wrote, in one commit that deletes the weights which it replaces."""
        from ...weights.files import stale_patterns
        from ...weights.upload import files_below, upload

        names = [
            name
            for name in os.listdir(working_dir)
            if name not in files_timestamps or (Path(working_dir) / name).stat().st_mtime > files_timestamps[name]
        ]
        stale = re.compile(stale_patterns(names, adapter_base(self) is not None))
        return upload(
            repo_id,
            files_below(Path(working_dir), names),
            lambda name: stale.fullmatch(name) is not None,
            commit_message=commit_message or "Upload model",
            commit_description=commit_description,
            token=token,
            create_pr=create_pr,
            revision=revision,
        )


# ---- helpers -----------------------------------------------------------------------------------------------------


def named_parts(model: PreTrainedModel, parts: tuple[str, ...]) -> Iterator[tuple[str, nn.Parameter, bool]]:
    """Every parameter: its name, itself, and whether it belongs to one of the parts (names of PARTS, or globs).

    Raises: ValueError for a part that this model does not have.
    """
    prefix = f"{model.base_model_prefix}."
    names = [name.removeprefix(prefix) for name, _ in model.named_parameters()]
    own_layers = {
        f"{stack}.layers.{number}."
        for stack in ("language_model", "text_encoder")
        for number, layer in enumerate(_layers(model, stack))
        if layer.is_cross_only
    }
    chosen = set()
    for part in parts:
        found = {name for name in names if _belongs(name, part, own_layers, prefix)}
        if not found:
            there = [known for known in PARTS if any(_belongs(name, known, own_layers, prefix) for name in names)]
            raise ValueError(
                f"{type(model).__name__} has no part {part!r}{nearest(part, PARTS)}; it has {', '.join(there)}, and "
                "globs over the names of its parameters are accepted too"
            )
        chosen |= found
    for name, parameter in model.named_parameters():
        yield name, parameter, name.removeprefix(prefix) in chosen


def _layers(model: PreTrainedModel, stack: str) -> list:
    base = getattr(model, model.base_model_prefix, model)
    found = getattr(base, stack, None)  # a tower on its own has no text stack
    return [] if found is None else list(found.layers)


def _belongs(name: str, part: str, own_layers: set[str], prefix: str) -> bool:
    if part not in PARTS:
        return fnmatchcase(name, part) or fnmatchcase(prefix + name, part)
    if part == "cross_attention" and any(name.startswith(layer) for layer in own_layers):
        return True  # a layer of [cross, mlp] has no other purpose
    return re.match(PARTS[part], name) is not None


def adapter_base(model: Any) -> str | None:
    """The base of the adapter that a model holds and save_pretrained therefore writes; None: it holds none."""
    if not model._hf_peft_config_loaded:
        return None
    active = model.active_adapters()
    named = model.peft_config[active[0]].base_model_name_or_path if active else None
    return named or model.config.name_or_path or ""
