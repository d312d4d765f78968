//! Follows a server's event stream.

use reqwest::Response;

use super::client::Client;
use super::failure::Failure;
use crate::exit::Exit;
use crate::stream::reader::{Reader, Received};

/// An open stream.
pub(super) struct Follow {
    response: Response,
    reader: Reader,
}

impl Follow {
    /// Opens the stream of one execution, from its beginning.
    pub(super) async fn execution(client: &Client, id: &str) -> Result<Self, Failure> {
        let topic = format!("execution:{id}");
        let request = client
            .get(&["stream"])
            .query(&[("topics", topic.as_str())])
            .header("last-event-id", "0");
        Ok(Self {
            response: client.send(request).await?,
            reader: Reader::default(),
        })
    }

    /// The next event; none when the server closed the stream.
    pub(super) async fn next(&mut self, client: &Client) -> Result<Option<Received>, Failure> {
        loop {
            if let Some(event) = self.reader.next() {
                return Ok(Some(event));
            }
            match self
                .response
                .chunk()
                .await
                .map_err(|error| client.unreachable(&error))?
            {
                Some(bytes) => self
                    .reader
                    .feed(&bytes)
                    .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?,
                None => return Ok(None),
            }
        }
    }
}
