//! The closed vocabularies of a definition.

/// Declares an enum whose variants are words on the wire.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// Every word on the wire, in declaration order.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// Reads the word used on the wire.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($word => Some(Self::$variant),)+ _ => None }
            }

            /// The word used on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
    };
}
pub(crate) use words;

words! {
    /// What a node does.
    NodeKind {
        /// Runs JavaScript or TypeScript, or a registered handler.
        Function = "function",
        /// Calls an HTTP API.
        Http = "http",
        /// Chooses among outgoing edges.
        Decision = "decision",
        /// Waits for, or is started by, an incoming HTTP call.
        Webhook = "webhook",
        /// Starts the workflow.
        Trigger = "trigger",
        /// Waits for a time.
        Delay = "delay",
        /// Reshapes data.
        Transformation = "transformation",
        /// Runs on a remote worker or a registered handler.
        Custom = "custom",
        /// Starts another workflow.
        Subworkflow = "subworkflow",
        /// Runs a body for each item.
        ForEach = "forEach",
        /// Repeats a body.
        Loop = "loop",
        /// Queries a database.
        Database = "database",
        /// Publishes an event.
        Publish = "publish",
        /// Ends the execution.
        End = "end",
    }
}

words! {
    /// When an edge may be taken.
    EdgeKind {
        /// After the source completed.
        Default = "default",
        /// After the source completed.
        Success = "success",
        /// After the source failed; handles the failure.
        Failure = "failure",
        /// After the source completed or failed; handles nothing.
        Always = "always",
    }
}

impl NodeKind {
    /// Whether the node runs attempts; the others are decided by the core alone.
    #[must_use]
    pub const fn has_attempts(self) -> bool {
        !matches!(self, Self::Decision | Self::Trigger | Self::Delay | Self::End)
    }

    /// Whether the node may change something outside its execution, as far as its type tells.
    #[must_use]
    pub const fn has_side_effects(self) -> bool {
        match self {
            Self::Function
            | Self::Http
            | Self::Custom
            | Self::Subworkflow
            | Self::ForEach
            | Self::Loop
            | Self::Database
            | Self::Publish => true,
            Self::Decision | Self::Webhook | Self::Trigger | Self::Delay | Self::Transformation | Self::End => false,
        }
    }
}
