//! The product: command line, REST API, event streams, and the wiring of backends. Nothing else knows the wire.

mod analyses;
pub mod app;
pub mod audit;
pub mod auth;
mod bench;
mod body;
pub mod cli;
mod demo;
pub mod dto;
pub mod error;
pub mod exit;
mod hooks;
pub mod members;
mod pages;
pub mod routes;
pub mod rules;
pub mod server;
mod stream;
mod trace;
mod triggers;
pub mod wiring;
