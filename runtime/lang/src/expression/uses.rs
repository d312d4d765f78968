//! Which names of the scope a source touches, so that the caller binds no others.

use std::collections::BTreeSet;

/// Members of `variables` or `nodes` that are touched.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Names {
    /// None of them.
    #[default]
    None,
    /// These, known from the source.
    Some(BTreeSet<String>),
    /// Any of them: the name is computed, or the whole object is used.
    All,
}

impl Names {
    /// Whether this member may be touched.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Self::None => false,
            Self::Some(names) => names.contains(name),
            Self::All => true,
        }
    }

    /// Whether no member is touched.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    pub(crate) fn add(&mut self, name: Option<&str>) {
        match (&mut *self, name) {
            (Self::All, _) => {}
            (_, None) => *self = Self::All,
            (Self::None, Some(name)) => *self = Self::Some(BTreeSet::from([name.to_owned()])),
            (Self::Some(names), Some(name)) => {
                names.insert(name.to_owned());
            }
        }
    }

    fn merge(&mut self, other: &Self) {
        match other {
            Self::None => {}
            Self::All => *self = Self::All,
            Self::Some(names) => names.iter().for_each(|name| self.add(Some(name))),
        }
    }
}

/// The names of the scope that a source touches. For sources of the sandbox it may name too many, never too few.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Uses {
    /// `input`
    pub input: bool,
    /// `trigger`
    pub trigger: bool,
    /// `variables`
    pub variables: Names,
    /// `nodes`
    pub nodes: Names,
    /// `execution`
    pub execution: bool,
    /// `resumeUrls`
    pub resume_urls: Names,
    /// `error`
    pub error: bool,
    /// `output`
    pub output: bool,
    /// `item`
    pub item: bool,
    /// `index`
    pub index: bool,
    /// `acc`
    pub acc: bool,
    /// `event`
    pub event: bool,
}

impl Uses {
    /// Everything, for sources that are not looked into.
    #[must_use]
    pub const fn all() -> Self {
        Self {
            input: true,
            trigger: true,
            variables: Names::All,
            nodes: Names::All,
            execution: true,
            resume_urls: Names::All,
            error: true,
            output: true,
            item: true,
            index: true,
            acc: true,
            event: true,
        }
    }

    /// Whether nothing of the scope is touched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what another source touches.
    pub fn merge(&mut self, other: &Self) {
        self.input |= other.input;
        self.trigger |= other.trigger;
        self.variables.merge(&other.variables);
        self.nodes.merge(&other.nodes);
        self.execution |= other.execution;
        self.resume_urls.merge(&other.resume_urls);
        self.error |= other.error;
        self.output |= other.output;
        self.item |= other.item;
        self.index |= other.index;
        self.acc |= other.acc;
        self.event |= other.event;
    }

    /// The names that are touched.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        let parsed = SCOPE_NAMES.iter().filter_map(|name| ScopeName::parse(name));
        parsed.filter(|name| self.touches(*name)).map(ScopeName::as_str)
    }

    /// Whether anything of `name` is touched.
    pub(crate) const fn touches(&self, name: ScopeName) -> bool {
        match name {
            ScopeName::Input => self.input,
            ScopeName::Trigger => self.trigger,
            ScopeName::Variables => !self.variables.is_none(),
            ScopeName::Nodes => !self.nodes.is_none(),
            ScopeName::Execution => self.execution,
            ScopeName::ResumeUrls => !self.resume_urls.is_none(),
            ScopeName::Error => self.error,
            ScopeName::Output => self.output,
            ScopeName::Item => self.item,
            ScopeName::Index => self.index,
            ScopeName::Acc => self.acc,
            ScopeName::Event => self.event,
        }
    }

    /// Records that `name`, and of it `member` (any when unknown), is touched.
    pub(crate) fn touch(&mut self, name: ScopeName, member: Option<&str>) {
        match name {
            ScopeName::Input => self.input = true,
            ScopeName::Trigger => self.trigger = true,
            ScopeName::Variables => self.variables.add(member),
            ScopeName::Nodes => self.nodes.add(member),
            ScopeName::Execution => self.execution = true,
            ScopeName::ResumeUrls => self.resume_urls.add(member),
            ScopeName::Error => self.error = true,
            ScopeName::Output => self.output = true,
            ScopeName::Item => self.item = true,
            ScopeName::Index => self.index = true,
            ScopeName::Acc => self.acc = true,
            ScopeName::Event => self.event = true,
        }
    }
}

/// The names that the engine may bind.
pub const SCOPE_NAMES: &[&str] = &[
    "input",
    "trigger",
    "variables",
    "nodes",
    "execution",
    "resumeUrls",
    "error",
    "output",
    "item",
    "index",
    "acc",
    "event",
];

/// A name that the engine may bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScopeName {
    Input,
    Trigger,
    Variables,
    Nodes,
    Execution,
    ResumeUrls,
    Error,
    Output,
    Item,
    Index,
    Acc,
    Event,
}

impl ScopeName {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "input" => Self::Input,
            "trigger" => Self::Trigger,
            "variables" => Self::Variables,
            "nodes" => Self::Nodes,
            "execution" => Self::Execution,
            "resumeUrls" => Self::ResumeUrls,
            "error" => Self::Error,
            "output" => Self::Output,
            "item" => Self::Item,
            "index" => Self::Index,
            "acc" => Self::Acc,
            "event" => Self::Event,
            _ => return None,
        })
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Trigger => "trigger",
            Self::Variables => "variables",
            Self::Nodes => "nodes",
            Self::Execution => "execution",
            Self::ResumeUrls => "resumeUrls",
            Self::Error => "error",
            Self::Output => "output",
            Self::Item => "item",
            Self::Index => "index",
            Self::Acc => "acc",
            Self::Event => "event",
        }
    }
}
