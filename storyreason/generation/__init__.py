"""Ask a model for stories: one (`tell`), a whole split (`predict`); and the vLLM process that answers (`vllm`)."""

from storyreason.generation.config import GenerationConfig
from storyreason.generation.openai import Piece, Stop, Telling, tell
from storyreason.generation.predictions import Prediction, predict

__all__ = ["GenerationConfig", "Piece", "Prediction", "Stop", "Telling", "predict", "tell"]
