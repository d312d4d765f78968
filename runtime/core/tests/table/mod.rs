//! One case a sentence of the semantics, driven through the real core and the reference at once.

mod attempts;
mod bounded_steps;
mod cancels;
mod children;
mod compensations;
mod data;
mod decisions;
mod decisions_by_hand;
mod edges;
mod end;
mod error_workflows;
mod flow;
mod joins;
mod late_arrivals;
mod lifecycle;
mod loops;
mod loops_that_stop;
mod nested_loops;
mod pause_and_cancel;
mod reopen;
mod rerun;
mod roots_and_delays;
mod runs;
mod visits;
mod wait_timeouts;
mod waits;
