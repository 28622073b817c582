//! Calibration on conversations: files of JSON Lines, rendered by the model's own chat template.
//!
//! Each line is one conversation: a list of messages, or an object whose `messages` is one; what else the
//! object holds (`tools`, switches such as `enable_thinking`) are variables of the template. Deliberately absent:
//! guessing other data sets' layouts (`from` and `value`, prompt and answer in columns).

use crate::base::error::{Error, Result};
use crate::model::tokenizer::{ChatTemplate, Tokenizer};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The conversations of a file.
#[derive(Clone, Debug)]
pub struct Chats {
    path: PathBuf,
    /// Each with its line, from 1, and the variables that the template sees.
    conversations: Vec<(usize, Map<String, Value>)>,
}

impl Chats {
    /// Reads the conversations of the file at `path`. Empty lines are passed over.
    ///
    /// # Errors
    /// A file that cannot be read, is no UTF-8 text or holds no conversation; a line that is none, by number.
    pub fn read(path: &Path) -> Result<Chats> {
        let text = super::text::read_text(path)?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let conversations = lines.map(|(at, line)| {
            let conversation = conversation(line);
            let conversation = conversation.map_err(|detail| at_line(path, at + 1, &detail))?;
            Ok((at + 1, conversation))
        });
        Ok(Chats { path: path.to_path_buf(), conversations: conversations.collect::<Result<_>>()? })
    }

    /// The name under which the file is recorded.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// The tokens of all conversations, one after the other. Special tokens are parsed, the template's and
    /// those that messages spell out; no BOS or EOS is added to what the template writes.
    ///
    /// # Errors
    /// What the template fails with, and the line of the conversation.
    pub fn tokens(&self, template: &ChatTemplate, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        let mut tokens = Vec::new();
        for (line, variables) in &self.conversations {
            let text = template.render(variables).map_err(|e| {
                at_line(&self.path, *line, &format!("the model's chat template fails: {e}"))
            })?;
            tokens.extend(tokenizer.encode(&text, true)?);
        }
        Ok(tokens)
    }
}

fn at_line(path: &Path, line: usize, detail: &str) -> Error {
    Error::format(path, format!("line {line}: {detail}"))
}

/// The variables of the conversation on one line.
fn conversation(line: &str) -> std::result::Result<Map<String, Value>, String> {
    let value: Value = serde_json::from_str(line).map_err(|e| match e.column() {
        0 => format!("not JSON: {e}"),
        column => {
            // Its own place is always line 1.
            let text = e.to_string();
            let what = text.split(" at line ").next().unwrap_or_default();
            format!("column {column}: not JSON: {what}")
        }
    })?;
    let variables = match value {
        Value::Array(_) => Map::from_iter([("messages".to_string(), value)]),
        Value::Object(variables) => variables,
        _ => return Err("neither a list of messages nor an object with 'messages'".to_string()),
    };
    let Some(Value::Array(messages)) = variables.get("messages") else {
        let keys: Vec<_> = variables.keys().map(|key| key.escape_debug().to_string()).collect();
        return Err(format!(
            "the object has no list 'messages' of {{\"role\": ..., \"content\": ...}}; its keys are: {}",
            keys.join(", ")
        ));
    };
    if messages.is_empty() {
        return Err("the conversation has no messages".to_string());
    }
    for (at, message) in messages.iter().enumerate() {
        check_message(message).map_err(|detail| format!("message {}: {detail}", at + 1))?;
    }
    Ok(variables)
}

/// What every template relies on; what a content or a role may be, it decides itself.
fn check_message(message: &Value) -> std::result::Result<(), String> {
    let Some(message) = message.as_object() else {
        return Err("no object with 'role' and 'content'".to_string());
    };
    if !message.get("role").is_some_and(Value::is_string) {
        return Err("'role' is missing or no string".to_string());
    }
    match message.get("content") {
        Some(Value::String(_) | Value::Array(_)) => Ok(()),
        Some(Value::Null) | None if message.contains_key("tool_calls") => Ok(()),
        Some(Value::Null) | None => Err("'content' is missing".to_string()),
        Some(_) => Err("'content' is neither a string nor a list of parts".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(line: &str) -> String {
        conversation(line).unwrap_err()
    }

    #[test]
    fn lines_are_lists_or_objects() {
        let list = conversation(r#"[{"role": "user", "content": "Hi"}]"#).unwrap();
        let object =
            r#"{"messages": [{"role": "user", "content": "Hi"}], "enable_thinking": false}"#;
        let object = conversation(object).unwrap();
        assert_eq!(list["messages"], object["messages"]);
        assert_eq!(object["enable_thinking"], Value::Bool(false));
        assert!(conversation(r#"[{"role": "assistant", "tool_calls": []}]"#).is_ok());
    }

    #[test]
    fn what_is_no_conversation_says_why() {
        for (line, part) in [
            ("[{\"role\": }]", "column 11: not JSON: expected value"),
            ("3", "neither a list of messages"),
            ("{\"conversations\": [], \"id\": 1}", "its keys are: conversations, id"),
            ("{\"messages\": {}}", "no list 'messages'"),
            ("[]", "no messages"),
            ("[[]]", "message 1: no object"),
            ("[{\"from\": \"human\", \"value\": \"Hi\"}]", "message 1: 'role' is missing"),
            (
                "[{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"user\"}]",
                "message 2: 'content' is",
            ),
            ("[{\"role\": \"user\", \"content\": 3}]", "neither a string nor"),
        ] {
            assert!(error(line).contains(part), "{line}: {}", error(line));
        }
    }
}
