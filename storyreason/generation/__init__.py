"""Generate stories: one (`tell`) or a whole split (`predict`); and run the vLLM process that serves a model (`vllm`)."""

from storyreason.generation.answering import Prediction, predict
from storyreason.generation.config import GenerationConfig
from storyreason.generation.openai import Chunk, Completion, Stop, tell

__all__ = ["Chunk", "Completion", "GenerationConfig", "Prediction", "Stop", "predict", "tell"]
