//! One case a sentence of the semantics, driven through the real core and the reference at once.

mod attempts;
mod data;
mod decisions;
mod edges;
mod flow;
mod joins;
mod lifecycle;
mod pause_and_cancel;
mod roots_and_delays;
