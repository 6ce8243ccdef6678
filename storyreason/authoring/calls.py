"""Calls of an authoring model: each is paid once, kept by its content, and counted.

A call that is repeated, because the process was killed or the data set is built again, takes the kept reply. What it cost
counts nevertheless: a data set costs the same however often its build was interrupted.
"""

import hashlib
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storyreason import pictures, runs
from storyreason.authoring.config import AuthoringConfig
from storyreason.authoring.prompting import Message
from storyreason.errors import ConfigError, EngineAwayError, EngineError
from storyreason.generation import openai

if TYPE_CHECKING:
    import httpx

PIXELS = 750
"""Pixels for one token of a picture, about; Qwen2.5-VL and Claude take as many, others fewer tokens."""
LETTERS = 4
"""Characters for one token of a text, about."""
MEANT_FOR_ALL = {401, 402, 403, 404}
"""Statuses that say nothing about the single request: a wrong key, model or address, or no credit left."""
LONGEST_WAIT = 120.0
"""Seconds that a request waits at most before it is sent again, whatever the endpoint says."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model wrote. `cut`: it ended at the token limit. `refused` says why there is no text, or is empty."""

    text: str
    cut: bool
    refused: str
    prompt_tokens: int
    tokens: int
    rejected: bool = False
    """The endpoint took nothing of the request, and was not paid."""


@dataclass(slots=True)
class Spent:
    """What calls cost so far. `kept`: replies that were paid earlier. `rejected`: refusals that are asked again."""

    calls: int = 0
    kept: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    cost: float = 0.0
    rejected: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


@dataclass
class Budget:
    """Counts the calls of a film, and ends them before its data set costs more than it may. `before`: what others cost."""

    config: AuthoringConfig
    before: float = 0.0
    limit: str = "authoring.max_cost"
    """What the limit is called where the user sets it."""
    spent: Spent = field(default_factory=Spent)
    _reserved: list[float] = field(default_factory=list)
    """What each call that is under way may cost."""
    _lock: threading.Condition = field(default_factory=threading.Condition)

    def price(self, prompt_tokens: float, tokens: float) -> float:
        """What so many tokens cost."""
        return (prompt_tokens * self.config.price_in + tokens * self.config.price_out) / 1e6

    def reserve(self, cost: float) -> None:
        """Set aside what a call may cost; where only calls under way stand in its way, it waits for them: most cost less.

        Raises ConfigError when that would be too much.
        """
        most = self.config.max_cost
        with self._lock:
            while most is not None and (spent := self.before + self.spent.cost) + sum(self._reserved) + cost > most:
                if spent + cost > most:
                    raise ConfigError(
                        f"{self.limit} = {most:g} is not enough: {spent:.4f} is spent, and the next call may cost "
                        f"{cost:.4f}. Raise it and start again: what is paid for is kept."
                    )
                self._lock.wait()
            self._reserved.append(cost)

    def settle(self, reserved: float, reply: Reply | None, kept: bool = False) -> None:
        """Count a call that ended; None: it failed."""
        with self._lock:
            if not kept:
                self._reserved.remove(reserved)
            self._lock.notify_all()
            if reply is not None:
                self.spent.calls += 1
                self.spent.kept += kept
                self.spent.refused += bool(reply.refused)
                self.spent.rejected += reply.rejected
                self.spent.prompt_tokens += reply.prompt_tokens
                self.spent.tokens += reply.tokens
                self.spent.cost += self.price(reply.prompt_tokens, reply.tokens)

    def total(self) -> Spent:
        """What was spent, whether it was paid now or earlier; its cost does not depend on the order of the calls."""
        cost = self.price(self.spent.prompt_tokens, self.spent.tokens)
        return replace(self.spent, kept=0, cost=cost)


class Author:
    """A model behind an OpenAI-compatible endpoint. `folder` keeps its replies."""

    def __init__(self, config: AuthoringConfig, folder: Path, budget: Budget, api_key: str | None = None) -> None:
        self._config, self._folder, self._budget, self._key = config, folder, budget, api_key
        self._lock, self._next = threading.Lock(), 0.0

    def ask(self, messages: Sequence[Message], grammar: str | None, attempt: int, schema: Any = None) -> Reply:
        """The reply to some messages, kept or new, under a grammar (GBNF) or a JSON schema if there is one.

        `attempt` counts from 0: each has a seed of its own. A rejected request is a refusal. Raises ConfigError when too much
        would be spent, or the endpoint rejects every request, EngineAwayError when it is unreachable, and EngineError when it
        is none.
        """
        body = self._body(messages, grammar, attempt)
        if schema is not None:
            form = {"name": "reply", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        path = self._folder / f"{name_of(body)}.json"
        if (reply := _kept(path)) is not None:
            self._budget.settle(0.0, reply, kept=True)
            return reply
        most = self._budget.price(estimate(messages), self._config.max_tokens)
        self._budget.reserve(most)
        found: Reply | None = None
        try:
            found = _counted(self._send(body), messages)
            if not found.rejected:
                runs.write_text(path, json.dumps(asdict(found), ensure_ascii=False) + "\n")
        finally:
            self._budget.settle(most, found)
        return found

    def _body(self, messages: Sequence[Message], grammar: str | None, attempt: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._config.model,
            "messages": list(messages),
            "temperature": self._config.temperature,
            "seed": self._config.seed + attempt,
            "max_tokens": self._config.max_tokens,
        }
        if messages[-1]["role"] == "assistant":
            body |= {"add_generation_prompt": False, "continue_final_message": True}
        if grammar is not None:
            body["structured_outputs"] = {"grammar": grammar}
        return body

    def _send(self, body: dict[str, Any]) -> Reply:
        import httpx

        url = openai.root(self._config.endpoint) + "/v1/chat/completions"
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        secure = url.startswith("https:")
        with httpx.Client(timeout=self._config.timeout, headers=headers, verify=secure, trust_env=secure) as client:
            for number in range(self._config.retries + 1):
                self._await_turn()
                wait = min(self._config.pause * 2**number, LONGEST_WAIT)
                try:
                    response = client.post(url, json=body)
                except httpx.TransportError as error:
                    said = f"did not answer ({error or type(error).__name__})"
                except (httpx.HTTPError, httpx.InvalidURL) as error:
                    raise EngineError(f"{url} cannot be asked: {error}.") from error
                else:
                    if response.status_code not in openai.RETRYABLE:
                        if (reply := _read(response)) is not None:
                            return reply
                        said = "gave an answer in another form than OpenAI's"
                    else:
                        said = f"answered {response.status_code}: {_sentence(response)}"
                        wait = _asked_wait(response, wait)
                if number < self._config.retries:
                    time.sleep(wait)
        raise EngineAwayError(f"{url} {said}, {self._config.retries + 1} times: start again when it is there.")

    def _await_turn(self) -> None:
        """Wait until the next request may be sent."""
        if self._config.requests_per_minute is None:
            return
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + 60 / self._config.requests_per_minute
        time.sleep(turn - now)


def name_of(body: Any) -> str:
    """The name of a request by its content."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def estimate(messages: Sequence[Message]) -> int:
    """About how many tokens messages have."""
    tokens = 0.0
    for message in messages:
        said = message["content"]
        parts: list[Message] = [{"type": "text", "text": said}] if isinstance(said, str) else said
        for part in parts:
            if part["type"] == "text":
                tokens += len(part["text"]) / LETTERS
            else:
                width, height = pictures.size(pictures.from_data_url(part["image_url"]["url"]))
                tokens += width * height / PIXELS
    return round(tokens)


def _counted(reply: Reply, messages: Sequence[Message]) -> Reply:
    """A reply of an endpoint that does not count tokens with an estimate."""
    if reply.prompt_tokens or reply.rejected:
        return reply
    return replace(reply, prompt_tokens=estimate(messages), tokens=round(len(reply.text) / LETTERS))


def _kept(path: Path) -> Reply | None:
    try:
        return Reply(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _read(response: "httpx.Response") -> Reply | None:
    """The reply in a response; None if it has another form. Raises ConfigError for what every request would be told."""
    if response.status_code in MEANT_FOR_ALL:
        raise ConfigError(
            f"{response.url} rejected the request with {response.status_code}: {_sentence(response)}. See whether the key, the "
            "model and the address are right, and whether credit is left."
        )
    if response.is_error:
        return Reply("", False, f"rejected with {response.status_code}: {_sentence(response)}", 0, 0, rejected=True)
    try:
        answer = response.json()
        choice, usage = answer["choices"][0], answer.get("usage") or {}
        text, reason = choice["message"].get("content") or "", choice.get("finish_reason")
        refused = choice["message"].get("refusal") or ("content filter" if reason == "content_filter" else "")
        asked, told = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
        return Reply("" + text, reason == "length", "" + refused, asked, told)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return None


def _sentence(response: "httpx.Response") -> str:
    try:
        error = response.json()["error"]
        return str(error["message"] if isinstance(error, dict) else error)[:300]
    except (ValueError, KeyError, TypeError, RecursionError):
        return response.text[:300] or response.reason_phrase


def _asked_wait(response: "httpx.Response", otherwise: float) -> float:
    """Seconds that a response asks to wait, at least."""
    try:
        return min(max(float(response.headers.get("retry-after", "")), otherwise), LONGEST_WAIT)
    except ValueError:
        return otherwise
