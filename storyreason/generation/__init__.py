"""Ask a model for stories: one (`tell`), a whole split (`predict`); and the vLLM process that answers (`vllm`)."""

from storyreason.generation.answering import Prediction, predict
from storyreason.generation.config import GenerationConfig
from storyreason.generation.openai import Piece, Stop, Telling, tell

__all__ = ["GenerationConfig", "Piece", "Prediction", "Stop", "Telling", "predict", "tell"]
