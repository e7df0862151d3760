//! async-openai, whose types are strict.
mod cases;
use async_openai::{config::OpenAIConfig, types::chat::*, Client};
use cases::*;
use futures::StreamExt;
use serde_json::json;

fn client(base: &str) -> Client<OpenAIConfig> {
    Client::with_config(OpenAIConfig::new().with_api_base(env(base) + "/v1").with_api_key("none"))
}

fn asked(model: &str, messages: serde_json::Value, n: u32) -> serde_json::Value {
    json!({"model": model, "messages": messages, "temperature": 0.0, "max_tokens": n})
}

fn request(value: serde_json::Value) -> Result<CreateChatCompletionRequest, serde_json::Error> {
    serde_json::from_value(value)
}

fn said(text: &str) -> serde_json::Value {
    json!([{"role": "user", "content": text}])
}

async fn list() -> Outcome {
    let models = client("BASE").models().list().await?;
    check(models.data.iter().any(|m| m.id == env("MODEL")), models)
}

async fn chat() -> Outcome {
    let answer = client("BASE").chat().create(request(asked(&env("MODEL"), said(QUESTION), 16))?).await?;
    same(answer.choices[0].message.content.as_deref().unwrap_or(""))
}

async fn stream() -> Outcome {
    let mut stream = client("BASE").chat().create_stream(request(asked(&env("MODEL"), said(QUESTION), 16))?).await?;
    let mut pieces = vec![];
    while let Some(chunk) = stream.next().await {
        pieces.extend(chunk?.choices.into_iter().filter_map(|c| c.delta.content).filter(|t| !t.is_empty()));
    }
    streamed(&pieces)
}

async fn tools() -> Outcome {
    let agent = client("AGENT_BASE");
    let weather: serde_json::Value = serde_json::from_str(WEATHER)?;
    let offered = json!([{"type": "function", "function": {"name": "weather", "parameters": weather}}]);
    let mut messages = said(ASK_WEATHER);
    let mut ask = asked(&env("AGENT_MODEL"), messages.clone(), 100);
    ask["tools"] = offered;
    let first = agent.chat().create(request(ask.clone())?).await?;
    let message = serde_json::to_value(&first.choices[0].message)?;
    let call = &message["tool_calls"][0];
    check(call["function"]["arguments"] == json!("{\"city\":\"Oslo\"}"), &message)?;
    let id = call["id"].clone();
    let list = messages.as_array_mut().ok_or("no list")?;
    list.push(json!({"role": "assistant", "tool_calls": message["tool_calls"]}));
    list.push(json!({"role": "tool", "tool_call_id": id, "content": "rain"}));
    ask["messages"] = messages;
    let second = agent.chat().create(request(ask)?).await?;
    check(second.choices[0].message.content == Some(env("REPORT")), second)
}

async fn structure() -> Outcome {
    let schema: serde_json::Value = serde_json::from_str(SUM)?;
    let mut ask = asked(&env("MODEL"), said(ASK_SUM), 100);
    ask["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "sum", "strict": true, "schema": schema}});
    let answer = client("BASE").chat().create(request(ask)?).await?;
    summed(answer.choices[0].message.content.as_deref().unwrap_or(""))
}

async fn cancel() -> Outcome {
    let stream = client("BASE").chat().create_stream(request(asked(&env("MODEL"), said(QUESTION), 400))?).await?;
    let first: Vec<_> = stream.take(3).collect().await;
    check(first.len() == 3 && first.iter().all(|c| c.is_ok()), first)
}

async fn errors() -> Outcome {
    match client("BASE").chat().create(request(asked(NOBODY, said(QUESTION), 16))?).await {
        Err(e) => check(e.to_string().contains(NOBODY), e),
        Ok(answer) => check(false, answer),
    }
}

#[tokio::main]
async fn main() {
    take("list", list()).await;
    take("chat", chat()).await;
    take("stream", stream()).await;
    take("tools", tools()).await;
    take("structure", structure()).await;
    take("cancel", cancel()).await;
    take("errors", errors()).await;
    println!("end");
}
