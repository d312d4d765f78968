//! Configuration: defaults, file, environment and command line, in this order, checked as a whole.
//!
//! Knows nothing of what the settings are used for.

pub mod env;
mod error;
mod events;
mod identity;
mod load;
mod raw;
mod secret;
mod settings;
mod store_url;

pub use error::{ConfigError, Problem};
pub use events::{Declares, EventBatch, EventQueue, EventSettings, ExchangeType, Unroutable};
pub use identity::ClientIdentity;
pub use load::{DEFAULTS, FILE_NAME, Sources};
pub use secret::SecretText;
pub use settings::{
    AllowedHost, AllowedTarget, BreakerSettings, ClusterSettings, Durability, EngineSettings, HttpSettings,
    LimitSettings, LogSettings, NodeTypeLimits, PublicUrl, SandboxSettings, Settings, StoreSettings,
};
pub use store_url::StoreUrl;
