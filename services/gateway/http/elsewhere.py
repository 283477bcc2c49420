"""Paths of other servers, and what to use here instead; for the message of a 404."""

from __future__ import annotations

CHAT, TEXT, MODELS = "/v1/chat/completions", "/v1/completions", "/v1/models"

INSTEAD = {
    "/chat/completions": CHAT,
    "/api/chat": CHAT,
    "/v1/messages": CHAT,
    "/responses": "/v1/responses",
    "/completions": TEXT,
    "/completion": TEXT,
    "/generate": TEXT,
    "/generate_stream": TEXT,
    "/api/generate": TEXT,
    "/infill": TEXT,
    "/models": MODELS,
    "/api/tags": MODELS,
    "/v1/model/info": MODELS,
    "/props": MODELS,
    "/slots": "/metrics",
    "/healthz": "/health",
    "/livez": "/health",
    "/ping": "/health",
    "/readyz": "/ready",
    "/docs": "/openapi.json",
    "/redoc": "/openapi.json",
    "/v1/tokenize": "/tokenize",
    "/v1/detokenize": "/detokenize",
}
"""Path of another server (OpenAI, Anthropic, llama.cpp, Ollama, TGI, vLLM, Kubernetes) to ours."""

NOT_HERE = {
    "/v1/embeddings": "embeddings",
    "/v1/responses": "stored responses",
    "/v1/conversations": "stored conversations",
    "/v1/images": "images",
    "/v1/audio": "audio",
    "/v1/moderations": "moderations",
    "/v1/files": "files",
    "/v1/batches": "batches",
    "/v1/fine_tuning": "fine-tuning",
    "/v1/assistants": "assistants",
    "/rerank": "reranking",
    "/v1/rerank": "reranking",
    "/pooling": "pooling",
    "/score": "scoring",
}


def not_found(path: str) -> str:
    """The message of a 404 on this path."""
    for beginning, what in NOT_HERE.items():
        if path == beginning or path.startswith(f"{beginning}/"):
            return f"this server does not offer {what}; it has {CHAT}, {TEXT} and {MODELS}"
    once = path.replace("/v1/v1/", "/v1/", 1)
    use = INSTEAD.get(path, once if once != path else None)
    return (
        f"there is no such path; use {use}"
        if use
        else f"there is no such path; /openapi.json lists all, {CHAT} first"
    )
