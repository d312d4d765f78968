//! `{{ … }}` in the strings of a node's data, and Jinja templates.
//!
//! What is inside `{{ … }}` is an [`crate::Expression`], or `secrets.NAME` by itself. A literal `{{` is written
//! `{{ "{{" }}`.

mod data;
mod jinja;
mod jinja_names;
mod text;

#[cfg(test)]
mod tests;

pub use self::data::{DataTemplate, SecretError};
pub use self::jinja::Jinja;
pub use self::text::{SandboxAnswers, TextTemplate};
