//! Parameters of path and query: unknown ones of the query are refused, so a slip never widens a list.

use std::str::FromStr;

use axum::extract::{FromRequestParts, Query};
use axum::http::Uri;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use troupe_core::definition::did_you_mean_or_list;

use crate::error::ApiError;

/// What the path names; a path that is no text is refused with a code.
pub(super) struct Path<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = axum::extract::Path::from_request_parts(parts, state).await;
        path.map(|axum::extract::Path(named)| Self(named))
            .map_err(|error| wrong(error.body_text()))
    }
}

/// The parameters of one request.
#[derive(Debug)]
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    /// Reads the query; every name must be `known`.
    pub(super) fn of(uri: &Uri, known: &[&str]) -> Result<Self, ApiError> {
        let query = Query::<Vec<(String, String)>>::try_from_uri(uri);
        let Query(pairs) = query.map_err(|error| wrong(error.to_string()))?;
        for (name, _) in &pairs {
            if !known.contains(&name.as_str()) {
                let hint = did_you_mean_or_list(name, known).unwrap_or_default();
                return Err(wrong(format!("there is no parameter `{name}` here ({hint})")));
            }
        }
        Ok(Self(pairs))
    }

    /// The text of a parameter; the last one wins.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .rev()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// A parameter read as `T`.
    pub(super) fn get<T: FromStr>(&self, name: &str, expected: &str) -> Result<Option<T>, ApiError> {
        let read = |text: &str| {
            text.parse()
                .map_err(|_| wrong(format!("`{name}` takes {expected}, not `{text}`")))
        };
        self.text(name).map(read).transpose()
    }

    /// The length of a page.
    pub(super) fn limit(&self, most: usize) -> Result<usize, ApiError> {
        match self.get::<usize>("limit", "a whole number")? {
            None => Ok(most.min(50)),
            Some(limit) if (1..=most).contains(&limit) => Ok(limit),
            Some(limit) => Err(wrong(format!("`limit` takes a number from 1 to {most}, not {limit}"))),
        }
    }
}

/// A wrong parameter.
pub(super) fn wrong(detail: impl Into<String>) -> ApiError {
    ApiError::new("INVALID_PARAMETER", detail)
}
