"""Agents of a few lines, each made with a library as its users make them. They know nothing of a gateway."""

OPENAI = """
import json, sys
from openai import OpenAI

client, stream = OpenAI(), sys.argv[1] == "stream"
tool = {"type": "function", "function": {"name": "look", "description": "Look at a thing.", "parameters": {
    "type": "object", "properties": {"what": {"type": "string"}}, "required": ["what"]}}}
chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Look twice."}]
while True:
    if stream:
        with client.chat.completions.stream(model="policy", messages=chat, tools=[tool]) as events:
            message = events.get_final_completion().choices[0].message
    else:
        whole = client.chat.completions.create(model="policy", messages=chat, tools=[tool])
        message = whole.choices[0].message
    chat.append(message.to_dict())
    if not message.tool_calls:
        break
    for call in message.tool_calls:
        seen = "seen " + json.loads(call.function.arguments)["what"]
        chat.append({"role": "tool", "tool_call_id": call.id, "content": seen})
print(message.content)
"""
ANTHROPIC = """
import sys
from anthropic import Anthropic

client, stream = Anthropic(), sys.argv[1] == "stream"
tool = {"name": "look", "description": "Look at a thing.", "input_schema": {
    "type": "object", "properties": {"what": {"type": "string"}}, "required": ["what"]}}
chat = [{"role": "user", "content": "Look twice."}]
while True:
    asked = dict(model="policy", max_tokens=500, system="Be brief.", messages=chat, tools=[tool])
    if stream:
        with client.messages.stream(**asked) as events:
            message = events.get_final_message()
    else:
        message = client.messages.create(**asked)
    chat.append({"role": "assistant", "content": [block.to_dict() for block in message.content]})
    if message.stop_reason != "tool_use":
        break
    chat.append({"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": block.id, "content": "seen " + block.input["what"]}
        for block in message.content if block.type == "tool_use"]})
print(message.content[-1].text)
"""
OPENAI_AGENTS = '''
import sys
from agents import Agent, Runner, function_tool, set_default_openai_api, set_tracing_disabled

set_tracing_disabled(True)
set_default_openai_api(sys.argv[1])

@function_tool
def look(what: str) -> str:
    """Look at a thing."""
    return "seen " + what

agent = Agent(name="agent", instructions="Be brief.", tools=[look], model="policy")
print(Runner.run_sync(agent, "Look twice.").final_output)
'''
PYDANTIC_AI = '''
import sys
from pydantic_ai import Agent

if sys.argv[1] == "messages":
    from pydantic_ai.models.anthropic import AnthropicModel as Model
else:
    from pydantic_ai.models.openai import OpenAIChatModel as Model
agent = Agent(Model("policy"), system_prompt="Be brief.")

@agent.tool_plain
def look(what: str) -> str:
    """Look at a thing."""
    return "seen " + what

print(agent.run_sync("Look twice.").output)
'''
LANGGRAPH = '''
import sys
from langgraph.prebuilt import create_react_agent

if sys.argv[1] == "messages":
    from langchain_anthropic import ChatAnthropic as Model
else:
    from langchain_openai import ChatOpenAI as Model

def look(what: str) -> str:
    """Look at a thing."""
    return "seen " + what

agent = create_react_agent(Model(model="policy"), [look], prompt="Be brief.")
print(agent.invoke({"messages": [("user", "Look twice.")]})["messages"][-1].content)
'''
SMOLAGENTS = '''
import os
from smolagents import OpenAIServerModel, ToolCallingAgent, tool

@tool
def look(what: str) -> str:
    """Look at a thing.

    Args:
        what: the thing
    """
    return "seen " + what

base, key = os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"]
model = OpenAIServerModel(model_id="policy", api_base=base, api_key=key)
print(ToolCallingAgent(tools=[look], model=model, max_steps=4).run("Look twice."))
'''
