"""Ask a model for stories: one (`tell`), a whole split (`predict`); and the vLLM process that answers (`vllm`)."""

from storyreason.generation.answering import Prediction, predict
from storyreason.generation.config import GenerationConfig
from storyreason.generation.openai import Chunk, Completion, Stop, tell

__all__ = ["Chunk", "Completion", "GenerationConfig", "Prediction", "Stop", "predict", "tell"]
