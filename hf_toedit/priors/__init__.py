"""Who is asked: language models in this process, on vLLM, behind a server, or scripted."""
