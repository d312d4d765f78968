//! Chaos over real servers: engine processes on a Redis, a RabbitMQ and a PostgreSQL of the harness's own, under load, while
//! everything that can break is broken. What was observed is judged offline by the checkers of the crash test.
//!
//! A [`plan::Trial`] is one deployment with faults at given times. [`trial::run`] plays it: load, faults, healing, liveness,
//! judgement. [`plan`] makes trials of every mode, [`report`] says what came of them.

pub mod changes;
pub mod deployment;
pub mod engine;
pub mod fault;
mod heard;
pub mod lab;
mod limits;
mod listener;
mod load;
pub mod mutants;
mod older;
pub mod plan;
mod poisoned;
mod processes;
mod proxy;
pub mod replicas;
pub mod report;
mod restart;
mod schedule;
mod servers;
pub mod trial;
