//! The chat templates that recipes know by name.
//!
//! Each is a Jinja template as the transformers library and llama.cpp run them, written to the format's
//! public description: ChatML (OpenAI), Llama 3 and Mistral 7B Instruct (their model cards), Alpaca
//! (Stanford Alpaca's prompts; roles system, user, user_context, assistant), EXAONE 3 (its model card).

/// Names and templates.
const NAMED: &[(&str, &str)] = &[
    ("alpaca", include_str!("named/alpaca.jinja")),
    ("chatml", include_str!("named/chatml.jinja")),
    ("exaone", include_str!("named/exaone.jinja")),
    ("llama3", include_str!("named/llama3.jinja")),
    ("mistral", include_str!("named/mistral.jinja")),
];

/// The names of the templates that come with the program.
pub fn chat_template_names() -> impl Iterator<Item = &'static str> {
    NAMED.iter().map(|(name, _)| *name)
}

/// The template called `name`.
pub fn named_chat_template(name: &str) -> Option<&'static str> {
    NAMED.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}
