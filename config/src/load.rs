//! Layers the sources and tells of every problem where it stands.

use std::path::{Path, PathBuf};

use figment::error::Kind;
use figment::providers::{Format, Serialized, Toml};
use figment::value::{Dict, Value};
use figment::{Figment, Metadata};

use crate::env::{self, Sets};
use crate::error::{ConfigError, Problem};
use crate::raw::Raw;
use crate::settings::Settings;

/// The defaults, as the file that documents them.
pub const DEFAULTS: &str = include_str!("../default.toml");
/// The file that is read from the working directory when none is named.
pub const FILE_NAME: &str = "troupe.toml";
const DEFAULTS_NAME: &str = "defaults";
/// What a list of tables looks like.
const TABLES_EXAMPLE: &str = "[{ name = \"billing\", keys = [\"*.execution.completed\"] }]";

/// Where settings come from; later sources win: defaults, file, environment, options.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A file that must exist.
    pub file: Option<PathBuf>,
    /// The directory in which [`FILE_NAME`] is read if it exists and `file` is not given.
    pub directory: Option<PathBuf>,
    /// The environment's variables; those without our prefix are passed over.
    pub environment: Vec<(String, String)>,
    /// Options of the command line: name, key, value.
    pub options: Vec<(&'static str, &'static str, Value)>,
    /// Whether `listen` must be a loopback address: for a server that knows no authentication.
    pub loopback_only: bool,
}

impl Sources {
    /// The process's environment and working directory.
    #[must_use]
    pub fn of_process() -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with(env::PREFIX))
            .collect::<Vec<_>>();
        let file = environment
            .iter()
            .find(|(name, _)| name == "TROUPE_CONFIG")
            .map(|(_, path)| path.into());
        Self {
            file,
            directory: Some(PathBuf::from(".")),
            environment,
            options: Vec::new(),
            loopback_only: false,
        }
    }

    /// What a variable of the environment says that sets no key.
    #[must_use]
    pub fn tool_variable(&self, name: &str) -> Option<&str> {
        let found = self.environment.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Refuses addresses to listen on that are no loopback addresses.
    #[must_use]
    pub fn loopback_only(self) -> Self {
        Self {
            loopback_only: true,
            ..self
        }
    }

    /// Sets a key as an option of the command line does.
    #[must_use]
    pub fn with_option(mut self, option: &'static str, key: &'static str, value: impl Into<Value>) -> Self {
        self.options.push((option, key, value.into()));
        self
    }

    /// Reads and checks everything.
    ///
    /// # Errors
    /// Every problem found, each with its source, key and a hint.
    pub fn load(&self) -> Result<Settings, ConfigError> {
        let figment = self.layers()?;
        let raw: Raw = figment.extract().map_err(|error| ConfigError {
            problems: problems_of(&figment, error),
        })?;
        Settings::of(raw, self.loopback_only).map_err(|complaints| {
            let problem = |(key, message, hint): (&'static str, String, Option<String>)| {
                let source = figment
                    .find_metadata(key)
                    .map_or_else(|| DEFAULTS_NAME.to_owned(), source_of);
                Problem {
                    source,
                    key: key.to_owned(),
                    message,
                    hint,
                }
            };
            ConfigError {
                problems: complaints.into_iter().map(problem).collect(),
            }
        })
    }

    fn layers(&self) -> Result<Figment, ConfigError> {
        let mut figment = Figment::from(named(Toml::string(DEFAULTS), DEFAULTS_NAME.to_owned()));
        let found = self
            .directory
            .as_ref()
            .map(|directory| directory.join(FILE_NAME))
            .filter(|path| path.is_file());
        if let Some(path) = self.file.clone().or(found) {
            figment = figment.merge(named(Toml::string(&read(&path)?), path.display().to_string()));
        }
        for (name, text) in &self.environment {
            let foreign = [env::INTERNAL_PREFIX, env::SECRET_PREFIX]
                .iter()
                .any(|prefix| name.starts_with(prefix));
            if !name.starts_with(env::PREFIX) || foreign {
                continue;
            }
            let Some(variable) = env::variable(name) else {
                return Err(unknown_variable(name));
            };
            let (key, value) = match variable.sets {
                Sets::Tool => continue,
                Sets::Key(key) => {
                    // What is text by default stays text, also if it has nothing but digits: a secret, a prefix.
                    let is_text = matches!(figment.find_value(key), Ok(Value::String(..)));
                    let value = if is_text {
                        Value::from(text.as_str())
                    } else {
                        scalar(text)
                    };
                    (key, value)
                }
                Sets::List(key) => {
                    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                    (key, Value::from(items.map(str::to_owned).collect::<Vec<_>>()))
                }
                Sets::Tables(key) => (key, tables(text).map_err(|why| unreadable(name, key, &why))?),
            };
            figment = figment.merge(named(
                Serialized::default(key, value),
                format!("environment variable {name}"),
            ));
        }
        for (option, key, value) in &self.options {
            figment = figment.merge(named(
                Serialized::default(key, value.clone()),
                format!("option {option}"),
            ));
        }
        Ok(figment)
    }
}

/// A whole number or a boolean where the text is one, else the text.
fn scalar(text: &str) -> Value {
    let digits = text.replace('_', "");
    match (digits.parse::<u64>(), text) {
        (Ok(number), _) => Value::from(number),
        (_, "true") => Value::from(true),
        (_, "false") => Value::from(false),
        _ => Value::from(text),
    }
}

/// A list of tables, written as in the file; empty: none.
fn tables(text: &str) -> Result<Value, String> {
    const KEY: &str = "it";
    if text.trim().is_empty() {
        return Ok(Value::from(Vec::<Value>::new()));
    }
    let read: Result<Dict, _> = Toml::from_str(&format!("{KEY} = {text}"));
    let mut read = read.map_err(|error| error.message().to_owned())?;
    match read.remove(KEY) {
        Some(value) if read.is_empty() => Ok(value),
        _ => Err("there is more than a list".to_owned()),
    }
}

fn unreadable(name: &str, key: &str, why: &str) -> ConfigError {
    let problem = Problem {
        source: format!("environment variable {name}"),
        key: key.to_owned(),
        message: format!("no list of tables in TOML: {}", why.trim().replace('\n', ", ")),
        hint: Some(format!("write {TABLES_EXAMPLE}")),
    };
    ConfigError {
        problems: vec![problem],
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| {
        let hint = "check --config and TROUPE_CONFIG".to_owned();
        let problem = Problem {
            source: path.display().to_string(),
            key: String::new(),
            message: format!("the file cannot be read: {error}"),
            hint: Some(hint),
        };
        ConfigError {
            problems: vec![problem],
        }
    })
}

/// A provider under a name that errors can show.
struct Named<P>(P, String);

fn named<P: figment::Provider>(provider: P, name: String) -> Named<P> {
    Named(provider, name)
}

impl<P: figment::Provider> figment::Provider for Named<P> {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.1.clone())
    }

    fn data(&self) -> Result<figment::value::Map<figment::Profile, figment::value::Dict>, figment::Error> {
        self.0.data()
    }
}

fn source_of(metadata: &Metadata) -> String {
    metadata.name.to_string()
}

fn unknown_variable(name: &str) -> ConfigError {
    let known = env::VARIABLES.iter().map(|variable| variable.name);
    let problem = Problem {
        source: format!("environment variable {name}"),
        key: String::new(),
        message: "no such variable".into(),
        hint: closest(name, known).map(|known| format!("did you mean {known}?")),
    };
    ConfigError {
        problems: vec![problem],
    }
}

fn problems_of(figment: &Figment, errors: figment::Error) -> Vec<Problem> {
    let mut problems = Vec::new();
    for error in errors {
        let mut key = error.path.join(".");
        let (message, hint) = match &error.kind {
            Kind::UnknownField(field, known) => {
                if !key.ends_with(field.as_str()) {
                    key = if key.is_empty() {
                        field.clone()
                    } else {
                        format!("{key}.{field}")
                    };
                }
                let hint = closest(field, known.iter().copied())
                    .map(|known| format!("did you mean `{known}`?"))
                    .unwrap_or_else(|| format!("known here: {}", known.join(", ")));
                ("no such key".to_owned(), Some(hint))
            }
            // Nothing of a secret is shown.
            Kind::InvalidType(_, expected) if key == "cluster.secret" => (
                format!("something else where {expected} is expected"),
                default_hint(&key),
            ),
            Kind::InvalidType(found, expected) => (format!("{found} where {expected} is expected"), default_hint(&key)),
            other => (other.to_string(), default_hint(&key)),
        };
        let source = error
            .metadata
            .as_ref()
            .or_else(|| figment.find_metadata(&key))
            .map_or_else(|| DEFAULTS_NAME.to_owned(), source_of);
        problems.push(Problem {
            source,
            key,
            message,
            hint,
        });
    }
    problems
}

fn default_hint(key: &str) -> Option<String> {
    // Of what stands in a list, that of the list.
    let key = key.trim_end_matches(|c: char| c == '.' || c.is_ascii_digit());
    let defaults = Figment::from(Toml::string(DEFAULTS));
    let value = defaults.find_value(key).ok()?;
    let shown = match &value {
        Value::String(_, text) => format!("\"{text}\""),
        Value::Num(..) => value
            .to_i128()
            .map_or_else(|| "a number".into(), |number| number.to_string()),
        Value::Array(..) if is_tables(key) => format!("an empty list; write {TABLES_EXAMPLE}"),
        Value::Array(..) => "a list, such as [\"127.0.0.1:8080\"]".into(),
        _ => return None,
    };
    Some(format!("the default is {shown}"))
}

fn is_tables(key: &str) -> bool {
    let mut variables = env::VARIABLES.iter();
    variables.any(|variable| matches!(variable.sets, Sets::Tables(known) if known == key))
}

fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = candidates
        .into_iter()
        .map(|known| (strsim::normalized_damerau_levenshtein(word, known), known));
    scored
        .filter(|(score, _)| *score >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}
