"""How the paper's model page says that its model is used: `published_usage.py MODEL_FOLDER`."""

import sys

from PIL import Image
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

model = Qwen2_5_VLForConditionalGeneration.from_pretrained(sys.argv[1], torch_dtype="auto", device_map="auto")
processor = AutoProcessor.from_pretrained(sys.argv[1])
images = [Image.new("RGB", (196, 112), colour) for colour in ("red", "green", "blue")]
content = [{"type": "image", "image": image} for image in images] + [{"type": "text", "text": "Tell a story."}]
messages = [{"role": "system", "content": "You are an AI storyteller."}, {"role": "user", "content": content}]
text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
inputs = processor(text=[text], images=images, padding=True, return_tensors="pt").to(model.device)
told = model.generate(**inputs, max_new_tokens=16, do_sample=True, temperature=0.7, top_p=0.9)  # type: ignore[misc]
print("told:", processor.batch_decode(told[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)[0])  # noqa: T201
