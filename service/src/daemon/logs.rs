//! Logs: a line of JSON for each message, for whatever collects them.

use std::io::Write;

use serde_json::{Map, Value, json};

/// How logs look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// `{"time": …, "level": …, "message": …, …}`
    #[default]
    Json,
    /// For people.
    Text,
}

/// Starts to log to standard error. `RUST_LOG` says what, `info` unless it is set.
pub fn start(format: Format) {
    let mut builder = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"));
    if format == Format::Json {
        builder.format(|out, record| {
            let mut line = Map::new();
            line.insert("time".into(), json!(out.timestamp_millis().to_string()));
            line.insert("level".into(), json!(record.level().as_str().to_lowercase()));
            line.insert("message".into(), json!(record.args().to_string()));
            line.insert("module".into(), json!(record.target()));
            let mut pairs = Pairs(&mut line);
            // Our own collector does not fail.
            let _ = record.key_values().visit(&mut pairs);
            writeln!(out, "{}", Value::Object(line))
        });
    }
    builder.init();
}

struct Pairs<'l>(&'l mut Map<String, Value>);

impl<'kvs> log::kv::VisitSource<'kvs> for Pairs<'_> {
    fn visit_pair(
        &mut self,
        key: log::kv::Key<'kvs>,
        value: log::kv::Value<'kvs>,
    ) -> Result<(), log::kv::Error> {
        let value = match (value.to_u64(), value.to_bool()) {
            (Some(number), _) => json!(number),
            (None, Some(truth)) => json!(truth),
            (None, None) => json!(value.to_string()),
        };
        self.0.insert(key.as_str().to_owned(), value);
        Ok(())
    }
}
