//! Chat templates: which ones a model has, those that recipes name, and rendering conversations with them.

mod jinja;
mod named;
mod template;
mod templates;

pub use jinja::Date;
pub use named::{chat_template_names, named_chat_template};
pub use template::ChatTemplate;
pub use templates::ChatTemplates;
