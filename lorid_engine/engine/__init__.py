"""The engine: requests of any adapter share every step. It knows adapters and nothing of maths."""

from lorid_engine.engine.engine import Engine
from lorid_engine.engine.outputs import EngineStats
from lorid_engine.engine.request import CompletionOutput, Logprob, Request, RequestOutput, SamplingParams

__all__ = ["CompletionOutput", "Engine", "EngineStats", "Logprob", "Request", "RequestOutput", "SamplingParams"]
