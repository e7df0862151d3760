//! kunobi-decision, a client of decision models in the System One format. Its list of models is
//! of TypeSafe's form, which no other server has.
mod cases;
use cases::*;
use kunobi_decision::{choice, noul, score, Client, Entry, Provider, Questions, SystemOneRequest};

fn client() -> Result<Client, kunobi_decision::Error> {
    Client::builder()
        .provider(Provider::Compatible)
        .base_url(env("BASE"))
        .api_key("none")
        .default_model(env("MODEL"))
        .timeout(std::time::Duration::from_secs(60))
        .total_timeout(Some(std::time::Duration::from_secs(60)))
        .build()
}

async fn structure() -> Outcome {
    let mut questions = Questions::new();
    let team = questions.add(
        "team",
        choice("Which team should handle this?", [
            ("billing", Entry::from("payments and refunds")),
            ("shipping", Entry::from("deliveries")),
            ("security", Entry::Null),
        ]),
    );
    let tone = questions.add("tone", score("How upset is the customer?", ["calm", "annoyed", "furious"]));
    let result = client()?.system_one(SystemOneRequest::new("My card was charged twice.", questions)).await?;
    let team = result.answer(&team)?;
    let tone = result.answer(&tone)?;
    let sums = [team.probabilities.values().sum::<f64>(), tone.probabilities.values().sum::<f64>()];
    check(
        sums.iter().all(|s| (s - 1.0).abs() < 1e-6) && team.ranked()[0].0 == team.choice && (0.0..=2.0).contains(&tone.score) && tone.legend.len() == 3,
        (team, tone),
    )
}

/// The model has no token "yes", and an unknown model is an error, too.
async fn errors() -> Outcome {
    let mut questions = Questions::new();
    questions.add("urgent", noul("Is it urgent?"));
    let asked = SystemOneRequest::new("My card was charged twice.", questions);
    match client()?.system_one(asked.clone()).await {
        Err(e) => check(e.status().is_some_and(|s| s == 400) && e.to_string().contains("yes"), e)?,
        Ok(answer) => check(false, answer)?,
    }
    match client()?.system_one(asked.model(NOBODY)).await {
        Err(e) => check(e.status().is_some_and(|s| s == 404) && e.to_string().contains(NOBODY), e),
        Ok(answer) => check(false, answer),
    }
}

#[tokio::main]
async fn main() {
    take("structure", structure()).await;
    take("errors", errors()).await;
    println!("end");
}
