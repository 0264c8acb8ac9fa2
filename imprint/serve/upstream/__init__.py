"""A backend that owns no model: servers with OpenAI's API, such as vLLM and SGLang, behind the accounts and the page of this service."""
