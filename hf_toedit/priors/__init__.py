"""The language models that are asked: in this process, on vLLM, behind a server, or scripted."""
