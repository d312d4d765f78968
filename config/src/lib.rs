//! Configuration: defaults, file, environment and command line, in this order, checked as a whole.
//!
//! Knows nothing of what the settings are used for.

pub mod env;
mod error;
mod load;
mod raw;
mod secret;
mod settings;

pub use error::{ConfigError, Problem};
pub use load::{DEFAULTS, FILE_NAME, Sources};
pub use secret::SecretText;
pub use settings::{
    AllowedHost, AllowedTarget, BreakerSettings, ClusterSettings, Durability, EngineSettings, EventBatch,
    EventSettings, HttpSettings, LimitSettings, LogSettings, NodeTypeLimits, PublicUrl, SandboxSettings, Settings,
    StoreSettings, StoreUrl,
};
