//! A suite in one test, for a server of the test's own that is not started anew for each clause.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use tokio::time::timeout;

/// Longest that a clause may take, so that one that hangs is named.
const LIMIT: Duration = Duration::from_secs(90);

/// A clause under way.
pub type Running<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// A clause, for fixtures of type `F`. [`crate::conformance_clauses`] makes them.
pub struct Clause<F> {
    /// The suite: a module of [`crate::conformance`].
    pub suite: &'static str,
    /// The function in it.
    pub name: &'static str,
    run: fn(&F) -> Running<'_>,
}

impl<F> Clause<F> {
    /// A clause, and what runs it.
    #[must_use]
    pub fn new(suite: &'static str, name: &'static str, run: fn(&F) -> Running<'_>) -> Self {
        Self { suite, name, run }
    }

    /// Runs it on a fixture whose store is new and empty.
    ///
    /// # Panics
    ///
    /// Where the store breaks the clause.
    pub async fn run(&self, fixture: &F) {
        (self.run)(fixture).await;
    }
}

/// Runs these clauses, so many at a time. `test` runs one: it has the fixtures.
///
/// # Panics
///
/// Once all have run, with the names of those that panicked or took longer than 90 seconds.
pub async fn run_all<F>(clauses: &[Clause<F>], at_once: usize, test: impl AsyncFn(&Clause<F>)) {
    let test = &test;
    let runs = clauses.iter().map(|clause| async move {
        let run = AssertUnwindSafe(test(clause)).catch_unwind();
        match timeout(LIMIT, run).await {
            Ok(Ok(())) => None,
            Ok(Err(_)) => Some(clause.name.to_owned()),
            Err(_) => Some(format!("{} (hangs)", clause.name)),
        }
    });
    let failed: Vec<Option<String>> = futures::stream::iter(runs).buffer_unordered(at_once).collect().await;
    let failed: Vec<String> = failed.into_iter().flatten().collect();
    assert!(
        failed.is_empty(),
        "{} of {} clauses fail: {failed:?}",
        failed.len(),
        clauses.len()
    );
}
