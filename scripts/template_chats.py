"""Conversations for rendering chat templates: the variables of the template, by name.

`check-templates` renders the templates of llama.cpp's sources and those of tests/data/templates with them.
"""

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather at a place, \"now\" <or> later & so on",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "City, e.g. Zürich"},
                "days": {"type": "integer", "enum": [1, 3, 7], "default": 1},
                "units": {"type": ["string", "null"], "enum": ["metric", None]},
                "where": {
                    "type": "object",
                    "properties": {"lat": {"type": "number", "minimum": -90.0}, "tags": {
                        "type": "array", "items": {"type": "string"}}},
                    "required": ["lat"],
                },
            },
            "required": ["place"],
        },
    },
}
NOTHING = {"type": "function", "function": {"name": "ping", "description": "Does nothing", "parameters": {
    "type": "object", "properties": {}}}}
CALL = {"id": "call12345", "type": "function", "function": {
    "name": "get_weather", "arguments": {"place": "Zürich", "days": 3, "where": {"lat": 47.4, "tags": ["a", "b"]}}}}
TEXT_CALL = {"id": "call12345", "type": "function", "function": {
    "name": "get_weather", "arguments": "{\"place\": \"Zürich\", \"days\": 3}"}}


def user(content="Hi there,\n  how are you? ", **more):
    return {"role": "user", "content": content, **more}


def assistant(content="Fine, 'thanks'. \"You\"?", **more):
    return {"role": "assistant", "content": content, **more}


SYSTEM = {"role": "system", "content": " Be brief.\n"}
RESULT = {"role": "tool", "name": "get_weather", "tool_call_id": "call12345", "content": "{\"sky\": \"clear\"}"}
PARTS = [{"type": "text", "text": "One part,"}, {"type": "text", "text": " and another."}]
IMAGE = [{"type": "image"}, {"type": "text", "text": "What is this?"}]

CHATS = {
    "plain": {"messages": [user()]},
    "system": {"messages": [SYSTEM, user()]},
    "turns": {"messages": [SYSTEM, user(), assistant(), user("And now?")]},
    "over": {"messages": [user(), assistant(), user("Bye."), assistant("Bye!")]},
    "tools": {"messages": [SYSTEM, user("Weather?")], "tools": [WEATHER, NOTHING]},
    "tools-no-system": {"messages": [user("Weather?")], "tools": [WEATHER]},
    "calls": {"messages": [SYSTEM, user("Weather?"), assistant(None, tool_calls=[CALL]), RESULT,
                           assistant("Clear."), user("Thanks")], "tools": [WEATHER, NOTHING]},
    "calls-empty": {"messages": [user("Weather?"), assistant("", tool_calls=[CALL]), RESULT], "tools": [WEATHER]},
    "calls-text": {"messages": [user("Weather?"), assistant("Let me see.", tool_calls=[TEXT_CALL]), RESULT,
                                assistant("Clear.")], "tools": [WEATHER]},
    "calls-two": {"messages": [user("Weather?"), assistant("", tool_calls=[CALL, {**CALL, "id": "call54321"}]),
                               RESULT, {**RESULT, "tool_call_id": "call54321"}], "tools": [WEATHER]},
    "thought": {"messages": [user(), assistant("4", reasoning_content="2 + 2\nis 4"), user("Sure?"),
                             assistant("Yes", reasoning_content="It is.")]},
    "thought-call": {"messages": [user(), assistant(None, reasoning_content="I look it up.", tool_calls=[CALL]), RESULT],
                     "tools": [WEATHER]},
    "thought-inline": {"messages": [user(), assistant("<think>\nhm\n</think>\n\n4"), user("Sure?")]},
    "thinking-off": {"messages": [SYSTEM, user()], "enable_thinking": False, "thinking": False},
    "thinking-on": {"messages": [SYSTEM, user()], "enable_thinking": True, "thinking": True,
                    "reasoning_effort": "high"},
    "parts": {"messages": [{"role": "system", "content": PARTS[:1]}, user(PARTS), assistant(PARTS), user(PARTS)]},
    "image": {"messages": [user(IMAGE)]},
    "documents": {"messages": [user("What do they say?")], "documents": [
        {"title": "One", "text": "First text"}, {"title": "Two", "text": "Zweiter – Text"}]},
    "two-users": {"messages": [user("a"), user("b")]},
    "assistant-first": {"messages": [assistant("a"), user("b")]},
    "developer": {"messages": [{"role": "developer", "content": "Do as told."}, user()]},
    "unknown-role": {"messages": [{"role": "narrator", "content": "x"}]},
    "empty-content": {"messages": [user(""), assistant("")]},
    "unicode": {"messages": [user("Grüße 😀 \t 你好\u2028<|im_end|>{{ x }}{% y %}")]},
}
