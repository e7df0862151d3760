//! What every Rust client's program shares: see python/cases.py.
use std::env::var;
use std::future::Future;

pub const QUESTION: &str = "Tell me a story about a fox.";
pub const ASK_WEATHER: &str = "How is the weather in Oslo?";
pub const ASK_SUM: &str = "What is 2 and 2?";
pub const NOBODY: &str = "no-such-model";
pub const WEATHER: &str = r#"{"type":"object","properties":{"city":{"type":"string"}},"required":["city"],"additionalProperties":false}"#;
pub const SUM: &str = r#"{"type":"object","properties":{"sum":{"type":"integer","minimum":0,"maximum":99}},"required":["sum"],"additionalProperties":false}"#;

pub type Outcome = Result<(), Box<dyn std::error::Error>>;

pub fn env(name: &str) -> String {
    var(name).unwrap_or_default()
}

pub fn check(holds: bool, what: impl std::fmt::Debug) -> Outcome {
    if holds { Ok(()) } else { Err(format!("not as it should be: {what:?}").into()) }
}

pub fn same(text: &str) -> Outcome {
    check(text == env("TEXT"), text)
}

/// A stream came in pieces, and they are the text.
pub fn streamed(pieces: &[String]) -> Outcome {
    check(pieces.len() > 3, pieces)?;
    same(&pieces.concat())
}

pub fn summed(text: &str) -> Outcome {
    let answer: serde_json::Value = serde_json::from_str(text)?;
    check(answer["sum"].as_i64().is_some_and(|n| (0..100).contains(&n)), text)
}

pub async fn take(name: &str, case: impl Future<Output = Outcome>) {
    println!("case {name}");
    match case.await {
        Ok(()) => println!("ok {name}"),
        Err(e) => println!("fail {name} {}", e.to_string().split_whitespace().collect::<Vec<_>>().join(" ")),
    }
}
