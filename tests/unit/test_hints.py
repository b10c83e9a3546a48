"""Hints of a caller: who takes which, and what becomes of the others."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.agents.models import Candidate
from app.messages import SamplingParams, UserMessage
from app.providers import anthropic, openai_completions, openai_responses
from app.providers.anthropic import AnthropicMessages
from app.providers.base import CallTimeouts, ModelInfo, ModelRequest
from app.providers.catalogue import lookup
from app.providers.hints import missed, unheeded, without
from app.providers.known import KNOWN
from app.providers.ollama import Ollama
from app.providers.openai_completions import OpenAICompletions, WireSwitches
from app.providers.openai_responses import OpenAIResponses
from app.providers.streaming import StreamingProvider
from app.providers.transport import HttpClient

EVERYTHING = SamplingParams(
    temperature=0.5,
    top_p=0.5,
    max_tokens=9,
    frequency_penalty=0.5,
    presence_penalty=0.5,
    seed=7,
    stop=("END",),
    reasoning_effort="high",
    verbosity="low",
    logit_bias={"1": 5},
    prediction={"type": "content", "content": "a"},
    service_tier="flex",
)
PENALTIES = {"frequency_penalty", "presence_penalty"}
PLAIN = ModelInfo()
THINKER = ModelInfo(reasoning=True, sampling=False)


def built(kind: type[StreamingProvider], info: ModelInfo = PLAIN, **options: Any) -> StreamingProvider:
    return kind("p", base_url="http://127.0.0.1:9", http=HttpClient(), default=info, **options)  # type: ignore[call-arg]


def ignores(
    kind: type[StreamingProvider],
    info: ModelInfo = PLAIN,
    params: SamplingParams = EVERYTHING,
    **options: Any,
) -> set[str]:
    with closing(built(kind, info, **options)) as provider:
        return set(provider.ignores("m", params))


def test_an_api_is_not_asked_for_what_it_does_not_have() -> None:
    assert ignores(OpenAICompletions) == set()
    assert ignores(OpenAIResponses) == {*PENALTIES, "seed", "logit_bias", "prediction"}
    assert ignores(Ollama) == {"logit_bias", "prediction", "verbosity", "service_tier"}
    assert ignores(AnthropicMessages, ModelInfo(reasoning=False)) == {
        *PENALTIES, "seed", "logit_bias", "prediction", "verbosity", "service_tier", "top_p",
        "reasoning_effort",
    }  # fmt: skip


def test_a_model_that_refuses_a_temperature_gets_none() -> None:
    assert ignores(OpenAICompletions, THINKER) == {*PENALTIES, "temperature", "top_p"}


def test_a_model_that_does_not_think_ignores_how_much_it_should() -> None:
    thoughtless = ModelInfo(reasoning=False)

    assert ignores(OpenAICompletions, thoughtless) == {"reasoning_effort"}
    assert ignores(OpenAICompletions, thoughtless, SamplingParams(reasoning_effort="none")) == set()


def test_claude_takes_one_of_two_ways_to_sample_and_none_while_it_thinks() -> None:
    both = SamplingParams(temperature=0.5, top_p=0.5)
    thinking = SamplingParams(temperature=0.5, reasoning_effort="high")
    budgeted, adaptive = ModelInfo(reasoning=True), ModelInfo(reasoning=True, adaptive=True)

    assert ignores(AnthropicMessages, ModelInfo(), both) == {"top_p"}
    assert ignores(AnthropicMessages, budgeted, thinking) == {"temperature"}
    assert ignores(AnthropicMessages, adaptive, thinking) == {"temperature"}


@pytest.mark.parametrize(("tier", "sent"), [("default", "standard_only"), ("priority", "auto")])
def test_claude_has_tiers_of_its_own(tier: str, sent: str) -> None:
    params = SamplingParams(service_tier=tier)
    request = ModelRequest("m", "", (UserMessage.of("hi"),), params=params)

    assert ignores(AnthropicMessages, ModelInfo(), params) == set()
    assert anthropic.build_body(request)["service_tier"] == sent
    assert ignores(AnthropicMessages, ModelInfo(), SamplingParams(service_tier="flex")) == {"service_tier"}


def test_a_value_that_makes_no_difference_is_left_out_and_not_missed() -> None:
    params = SamplingParams(temperature=1.0, top_p=1, frequency_penalty=0, presence_penalty=0.0)

    names = unheeded(params, ModelInfo(sampling=False), ())

    assert set(names) == {"temperature", "top_p", *PENALTIES}
    assert without(params, names) == SamplingParams()
    assert missed(params, names) == ()


def test_temperature_and_seed_of_zero_are_values_like_others() -> None:
    params = SamplingParams(temperature=0, seed=0)

    assert missed(params, ("temperature", "seed")) == ("temperature", "seed")


@pytest.mark.parametrize("vendor", [v for v in KNOWN if v.switches.lacks], ids=lambda vendor: vendor.id)
def test_what_a_vendor_refuses_is_not_sent_to_it(vendor: Any) -> None:
    names = ignores(OpenAICompletions, switches=vendor.switches)

    assert names == vendor.switches.lacks
    assert names <= set(SamplingParams.__slots__)


@pytest.mark.parametrize(
    ("vendor", "model", "sampling"),
    [
        ("openai", "gpt-4o", True),
        ("openai", "gpt-5-mini-2025-08-07", False),
        ("openai", "o3", False),
        ("anthropic", "claude-haiku-4-5-20251001", True),
        ("anthropic", "claude-sonnet-4-6", True),
        ("anthropic", "claude-opus-4-7", False),
        ("anthropic", "claude-sonnet-5-5", False),
        ("openrouter", "anthropic/claude-opus-4.7", False),
        ("google", "gemini-3.8-flash", True),
    ],
)
def test_the_catalogue_knows_who_refuses_a_temperature(vendor: str, model: str, sampling: bool) -> None:
    info = lookup(vendor, model)

    assert info is not None
    assert info.sampling is sampling


def test_the_newer_parameters_have_their_places_in_openais_wire_formats() -> None:
    request = ModelRequest("m", "", (UserMessage.of("hi"),), params=EVERYTHING)

    body = openai_completions.build_body(request, WireSwitches())
    assert body["verbosity"] == "low"
    assert body["logit_bias"] == {"1": 5}
    assert body["prediction"] == {"type": "content", "content": "a"}
    assert body["service_tier"] == "flex"

    body = openai_responses.build_body(request)
    assert body["text"] == {"verbosity": "low"}
    assert body["service_tier"] == "flex"
    assert not {"logit_bias", "prediction", "seed", *PENALTIES} & body.keys()


def test_a_provider_that_does_not_say_what_it_ignores_ignores_nothing() -> None:
    class Silent:
        id = "p"

    candidate = Candidate(Silent(), "m", CallTimeouts())  # type: ignore[arg-type]

    assert candidate.ignores(EVERYTHING) == ()


PARAMS = st.builds(
    SamplingParams,
    temperature=st.none() | st.floats(0, 2),
    top_p=st.none() | st.floats(0, 1),
    frequency_penalty=st.none() | st.floats(-2, 2),
    seed=st.none() | st.integers(0, 5),
    stop=st.sampled_from([(), ("a",)]),
    max_tokens=st.none() | st.integers(1, 9),
    reasoning_effort=st.none() | st.sampled_from(["none", "low", "max"]),
    verbosity=st.none() | st.just("low"),
    service_tier=st.none() | st.sampled_from(["default", "flex"]),
)
INFOS = st.builds(ModelInfo, reasoning=st.none() | st.booleans(), sampling=st.booleans())
LACKS = st.frozensets(st.sampled_from(["seed", "verbosity", "service_tier", "temperature"]))


@given(PARAMS, INFOS, LACKS)
def test_what_is_left_out_was_there_and_nothing_else_changes(
    params: SamplingParams, info: ModelInfo, lacks: frozenset[str]
) -> None:
    names = unheeded(params, info, lacks)
    rest = without(params, names)

    assert set(missed(params, names)) <= set(names)
    assert unheeded(rest, info, lacks) == ()
    for name in SamplingParams.__slots__:
        assert getattr(rest, name) == (None if name in names else getattr(params, name))
