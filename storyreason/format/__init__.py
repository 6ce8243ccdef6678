"""The format of an answer: analysis and story, as text and as objects, and the rules that say what is valid."""
