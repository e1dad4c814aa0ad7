"""Teacher: a model behind an OpenAI-compatible server that writes a question's rules."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import openai

from lorid_engine.errors import TeacherError
from lorid_engine.teach.prompt import SCHEMA, messages, read_rules

# From the most helpful to what every server has.
_FORMATS: tuple[dict[str, Any] | None, ...] = (
    {"type": "json_schema", "json_schema": {"name": "rules", "strict": True, "schema": SCHEMA}},
    {"type": "json_object"},
    None,
)
_MOST_TOKENS = 1 << 40  # of any count that is believed
_LONGEST_WAIT = 10.0  # seconds between two tries of the client
_FATAL = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)


@dataclass(frozen=True)
class TeacherOptions:
    """How the teacher is asked.

    Attributes:
        model: its name at the server.
        base_url: of the server; None = OpenAI's, or OPENAI_BASE_URL.
        api_key: None = OPENAI_API_KEY.
        temperature: the paper's is 0.2.
        max_tokens: of an answer.
        attempts: how often a question is asked until an answer can be used.
        retries: how often a request is repeated that the server refuses for now (429, 5xx) or does not answer; waits double.
        timeout: seconds for a request.
    """

    model: str
    base_url: str | None = None
    api_key: str | None = None
    temperature: float = 0.2
    max_tokens: int = 512
    attempts: int = 3
    retries: int = 5
    timeout: float = 120.0


@dataclass
class Usage:
    """Tokens that were paid for."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, usage: Any) -> None:
        """Adds what a response reports; a server may report nothing."""
        for name in ("prompt_tokens", "completion_tokens"):
            count = getattr(usage, name, 0)
            if isinstance(count, int) and not isinstance(count, bool) and 0 < count < _MOST_TOKENS:
                setattr(self, name, getattr(self, name) + count)

    def cost(self, price_in: float, price_out: float) -> float:
        """At prices for a million tokens."""
        return (self.prompt_tokens * price_in + self.completion_tokens * price_out) / 1e6


class NoAnswerError(Exception):
    """A question has no usable answer; the message says why.

    Attributes:
        from_server: whether the server failed or refused, not the model.
    """

    def __init__(self, message: str, *, from_server: bool) -> None:
        super().__init__(message)
        self.from_server = from_server


class Teacher:
    """Asks for rules; not to be used by more than one event loop.

    Raises:
        TeacherError: no key for a server that needs one.
    """

    def __init__(self, options: TeacherOptions) -> None:
        self._options = options
        self._format, self._knows_format = 0, False
        if options.base_url is not None:
            _check_url(options.base_url)
        key = options.api_key or (None if options.base_url is None else _key_or_none())
        try:
            self._client = openai.AsyncOpenAI(
                api_key=key, base_url=options.base_url, max_retries=options.retries, timeout=options.timeout
            )
        except openai.OpenAIError as error:
            raise TeacherError(f"the teacher cannot be asked: {error}") from None

    async def rules(self, question: str, solution: str, usage: Usage) -> list[str]:
        """The rules of a question; tokens are added to `usage`, those of answers that cannot be used included.

        Raises:
            NoAnswerError: no attempt gave a usable answer, or the server did not take this question.
            TeacherError: the server takes no question at all: a wrong key or model, or nobody is there.
        """
        why = ""
        for _ in range(self._options.attempts):
            text = await self._ask(question, solution, usage)
            try:
                return read_rules(text)
            except ValueError as error:
                why = str(error)
        raise NoAnswerError(f"{self._options.attempts} answers could not be used; the last: {why}", from_server=False)

    async def _ask(self, question: str, solution: str, usage: Usage) -> str | None:
        """One answer, in the best form that the server takes: which one is found out once."""
        refused: openai.APIStatusError | None = None
        for place in range(self._format, len(_FORMATS)):
            try:
                response = await asyncio.wait_for(self._create(question, solution, _FORMATS[place]), self._most_seconds)
            except _FATAL as error:
                raise TeacherError(f"{self._where} refuses: {error.message}") from None
            except (openai.APITimeoutError, asyncio.TimeoutError):
                raise NoAnswerError(
                    f"the server has not answered within {self._options.timeout:g} s", from_server=True
                ) from None
            except openai.APIConnectionError as error:
                raise TeacherError(f"{self._where} does not answer: {error.message}") from None
            except openai.APIStatusError as error:
                if _may_be_for_form(error):
                    refused = error
                    continue
                raise NoAnswerError(
                    f"the server answers {error.status_code}: {error.message}", from_server=True
                ) from None
            except (openai.OpenAIError, ValueError) as error:  # no JSON, or not of this interface
                raise NoAnswerError(f"the server's answer cannot be read: {error}", from_server=True) from None
            self._format, self._knows_format = place, True
            usage.add(getattr(response, "usage", None))
            return _text(response)
        assert refused is not None
        raise NoAnswerError(f"the server refuses the question: {refused.message}", from_server=True)

    async def _create(self, question: str, solution: str, form: dict[str, Any] | None) -> Any:
        if (
            form and not self._knows_format
        ):  # some servers answer 500 to a form that they do not have: no use in retrying
            try:
                return await self._send(self._client.with_options(max_retries=0), question, solution, form)
            except (openai.RateLimitError, openai.InternalServerError, openai.APIConnectionError) as error:
                if isinstance(error, openai.APIStatusError) and _may_be_for_form(error):
                    raise
        return await self._send(self._client, question, solution, form)

    async def _send(self, client: openai.AsyncOpenAI, question: str, solution: str, form: dict[str, Any] | None) -> Any:
        return await client.chat.completions.create(
            model=self._options.model,
            messages=messages(question, solution),
            temperature=self._options.temperature,
            max_tokens=self._options.max_tokens,
            **({"response_format": form} if form else {}),
        )

    @property
    def _most_seconds(self) -> float:
        """For a request with its retries and waits. The client's own limit is for each piece of an answer."""
        return (self._options.timeout + _LONGEST_WAIT) * (self._options.retries + 1)

    @property
    def _where(self) -> str:
        url = self._client.base_url
        return f"the server {url.scheme}://{url.host}{f':{url.port}' if url.port else ''}{url.path}"

    async def close(self) -> None:
        """Ends the connections."""
        await self._client.close()


def _may_be_for_form(error: openai.APIStatusError) -> bool:
    """Whether a server may have refused a request for its response_format."""
    refused = isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError)
    return refused or "response_format" in error.message


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid:
        raise TeacherError("the server's URL must be like http://localhost:8000/v1: scheme, host, port and path")


def _text(response: Any) -> str | None:
    """The text of a response's first choice, which some servers give in parts; None where there is none."""
    choices = getattr(response, "choices", None)
    message = getattr(choices[0], "message", None) if isinstance(choices, list) and choices else None
    content = getattr(message, "content", None)
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else getattr(part, "text", None) for part in content]
        content = "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else None


def _key_or_none() -> str:
    """A server of one's own often needs no key, but the client wants one."""
    return os.environ.get("OPENAI_API_KEY") or "none"
