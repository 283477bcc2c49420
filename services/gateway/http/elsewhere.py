"""Paths of other servers, and what to use here instead; for the message of a 404."""

from __future__ import annotations

CHAT, TEXT, RESPONSES, MODELS = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/models"

INSTEAD = {
    "/chat/completions": CHAT,
    "/api/chat": CHAT,
    "/v1/messages": CHAT,
    "/v1/messages/count_tokens": "/tokenize",
    "/v1/responses/input_tokens": "/tokenize",
    "/responses": RESPONSES,
    "/completions": TEXT,
    "/completion": TEXT,
    "/generate": TEXT,
    "/generate_stream": TEXT,
    "/api/generate": TEXT,
    "/infill": TEXT,
    "/inference/v1/generate": TEXT,
    "/apply-template": "/tokenize",
    "/v1/completions/render": "/tokenize",
    "/v1/chat/completions/render": "/tokenize",
    "/models": MODELS,
    "/api/tags": MODELS,
    "/v1/model/info": MODELS,
    "/props": MODELS,
    "/get_model_info": MODELS,
    "/model_info": MODELS,
    "/server_info": MODELS,
    "/api/show": MODELS,
    "/api/version": "/version",
    "/slots": "/metrics",
    "/load": "/metrics",
    "/v1/load": "/metrics",
    "/v1/health": "/health",
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
    "/v1/videos": "videos",
    "/v1/realtime": "realtime sessions",
    "/v1/vector_stores": "vector stores",
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
    once = path.replace("/v1/v1/", "/v1/", 1)
    if use := INSTEAD.get(path, once if once != path else None):
        return f"there is no such path; use {use}"
    for beginning, what in NOT_HERE.items():
        if path == beginning or path.startswith(f"{beginning}/"):
            return f"this server does not offer {what}; it has {CHAT}, {TEXT}, {RESPONSES} and {MODELS}"
    return f"there is no such path; /openapi.json lists all, {CHAT} first"
